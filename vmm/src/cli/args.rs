//! The form of the command line. Flags that describe the VM are in [`RawConfig`], beside their keys in files.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{FileRef, RawConfig, file};

/// Starts virtual machines in a jiffy.
#[derive(Parser)]
#[command(
    name = "jiffy",
    bin_name = "jiffy",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
#[command(after_help = "\
Try:
  jiffy run --kernel vmlinuz --initrd initrd.img     boot a Linux kernel; its console is this terminal
  jiffy probe                                        see whether this host can run virtual machines")]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) task: Task,
}

#[derive(Subcommand)]
pub(super) enum Task {
    /// Run a virtual machine until it ends
    ///
    /// In a terminal, Ctrl-A x ends the VM and Ctrl-A h shows help.
    ///
    /// The exit status is the guest's own if it reports one, else
    ///     0  the guest powered off or reset
    ///   121  the guest's kernel panicked
    ///   122  triple fault
    ///   123  KVM could not run the guest
    ///   125  the VM could not be started: bad flags or files, no KVM
    /// 128+N  signal N ended the VM
    #[command(after_help = EXAMPLES, verbatim_doc_comment)]
    Run(Box<Run>),

    /// Say what this host's KVM offers
    Probe {
        /// As JSON
        #[arg(long)]
        json: bool,
    },

    /// Print the JSON schema of configuration files
    Schema,

    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Args)]
pub(super) struct Run {
    /// Read the configuration from this file, TOML or JSON, or Firecracker's JSON; flags win over it
    ///
    /// Its keys have the names of the flags. Paths in it are relative to the current directory.
    #[arg(long, value_name = "FILE", help_heading = "Configuration", value_parser = file())]
    pub(super) config: Option<FileRef>,

    /// Print the whole configuration, as a file that --config takes, and exit
    #[arg(long, help_heading = "Configuration")]
    pub(super) print_config: bool,

    #[command(flatten)]
    pub(super) flags: RawConfig,
}

const EXAMPLES: &str = "\
Wherever a file is named, fd:N means the descriptor N that the caller left open.

Examples:
  Boot a kernel with an initramfs, on 2 CPUs and 512 MiB of memory:
    jiffy run --kernel vmlinuz --initrd initrd.img --cpus 2 --memory 512M
  See where the time of a boot goes:
    jiffy run --kernel vmlinuz --initrd initrd.img --timeline text
  Keep the configuration in a file:
    jiffy run --kernel vmlinuz --initrd initrd.img --print-config > vm.toml
    jiffy run --config vm.toml --cpus 4";
