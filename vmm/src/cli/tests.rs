use clap::{CommandFactory, ValueEnum};
use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::config::{
    ConsoleSpec, Cpus, DEFAULT_CMDLINE, FileRef, HugePages, MachineKind, MemorySize, Protocol, TimelineMode,
};

fn jiffy(args: &[&str]) -> Result<Command, Error> {
    parse(["jiffy"].iter().chain(args).map(OsString::from))
}

fn run(args: &[&str]) -> VmSpec {
    match jiffy(&[&["run"], args].concat()) {
        Ok(Command::Run(spec)) => *spec,
        other => panic!("{args:?} gives {other:?}"),
    }
}

fn printed(args: &[&str]) -> String {
    match jiffy(args) {
        Ok(Command::Print(text)) => text,
        other => panic!("{args:?} gives {other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn defaults() {
    let spec = run(&["--kernel", "k"]);
    assert_eq!(spec.boot.kernel, Some(FileRef::Path("k".into())));
    assert_eq!(spec.boot.cmdline, DEFAULT_CMDLINE);
    assert!(spec.boot.unpack);
    assert_eq!((spec.cpus, spec.memory.size), (1, 256 << 20));
    assert_eq!(spec.console, ConsoleSpec::Stdio);
    let firmware_alone = run(&["--firmware", "rom"]);
    assert_eq!(firmware_alone.boot.cmdline, "");
}

#[test]
fn every_flag_arrives() {
    let spec = run(&[
        "--kernel=k",
        "--initrd=fd:7",
        "--cmdline=-a b",
        "--firmware=rom",
        "--protocol=pvh",
        "--unpack=off",
        "--kaslr=0x10",
        "--cpus=254",
        "--memory=1G,huge=1G,prealloc,shared",
        "--machine=legacy",
        "--invtsc",
        "--console=file=log",
        "--timeline=json",
        "--timeline-origin=12",
        "--result=r",
    ]);
    let text = spec.to_toml().unwrap();
    for expected in [
        r#"kernel = "k""#,
        r#"initrd = "fd:7""#,
        r#"cmdline = "-a b""#,
        r#"firmware = "rom""#,
        r#"protocol = "pvh""#,
        "unpack = false",
        r#"kaslr = "16""#,
        "cpus = 254",
        r#"size = "1G""#,
        r#"huge = "1G""#,
        "prealloc = true",
        "shared = true",
        r#"machine = "legacy""#,
        "invtsc = true",
        r#"console = "file=log""#,
        r#"timeline = "json""#,
        "timeline-origin = 12",
        r#"result = "r""#,
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected} is not in:\n{text}");
    }
}

#[test]
fn flags_win_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm");
    std::fs::write(&path, "kernel = 'a'\ncpus = 2\ninvtsc = true\nmemory = '1G,huge=2M,prealloc'\n").unwrap();
    let path = path.to_str().unwrap();
    let spec = run(&["--config", path, "--cpus", "3", "--memory", "2G,prealloc=off", "--invtsc=off"]);
    assert_eq!(spec.boot.kernel, Some(FileRef::Path("a".into())));
    assert_eq!((spec.cpus, spec.invtsc), (3, false));
    assert_eq!(
        (spec.memory.size, spec.memory.huge, spec.memory.prealloc),
        (2 << 30, HugePages::Size2M, false)
    );
}

#[test]
fn a_printed_configuration_is_the_same_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm.toml");
    let flags = ["--kernel", "k", "--memory", "3G", "--kaslr", "18446744073709551615", "--console", "off"];
    std::fs::write(&path, printed(&[&["run", "--print-config"], &flags[..]].concat())).unwrap();
    assert_eq!(run(&["--config", path.to_str().unwrap()]), run(&flags));
}

#[test]
fn errors_say_where_what_and_what_to_do() {
    for (args, expected) in [
        (
            "run",
            "there is nothing to boot: give --kernel FILE or --firmware FILE (`jiffy run --help` has examples)",
        ),
        (
            "run --memroy 5",
            "unexpected argument '--memroy' found; tip: a similar argument exists: '--memory'; --help explains",
        ),
        (
            "run --machine fats",
            "invalid value 'fats' for '--machine <KIND>'; [possible values: fast, legacy]; tip: a similar value exists: 'fast'; --help explains",
        ),
        (
            "run --append quiet",
            "unexpected argument '--append' found; tip: here that is 'jiffy run --cmdline'; --help explains",
        ),
        (
            "run --mem=512",
            "unexpected argument '--mem' found; tip: here that is 'jiffy run --memory'; --help explains",
        ),
        (
            "run -m 512",
            "unexpected argument '-m' found; tip: here that is 'jiffy run --memory'; --help explains",
        ),
        (
            "run -kernel k",
            "unexpected argument '-k' found; tip: flags begin with two dashes, as '--kernel' does; --help explains",
        ),
        (
            "--kernel k",
            "unexpected argument '--kernel' found; tip: write 'jiffy run --kernel'; --help explains",
        ),
        ("completions", "the following required arguments were not provided: <SHELL>; --help explains"),
        ("run --kernel", "a value is required for '--kernel <FILE>' but none was supplied; --help explains"),
        ("run --cpus 1 --cpus 2", "the argument '--cpus <N>' cannot be used multiple times; --help explains"),
        ("run vmlinuz", "unexpected argument 'vmlinuz' found; --help explains"),
        ("rum", "unrecognized subcommand 'rum'; tip: a similar subcommand exists: 'run'; --help explains"),
        ("run --cpus 0", "--cpus: `0` is not a number of CPUs that a VM can have: give 1 to 254"),
        ("run --cpus 255", "--cpus: `255` is not a number of CPUs that a VM can have: give 1 to 254"),
        (
            "run --memory 5X",
            "--memory: `5X` is not a size: write a whole number and K, M, G or T, such as 512M (no unit: MiB)",
        ),
        ("run --memory 1M", "--memory: 1048576 bytes are too little memory: give 2M or more"),
        ("run --memory 5T", "--memory: `5497558138880` is more memory than a VM can have: give 4T or less"),
        (
            "run --memory 2049K",
            "--memory: 2098176 bytes are not a whole number of 4 KiB pages: round to a multiple of 4096",
        ),
        (
            "run --memory 2G,huge=3M",
            "--memory: `huge=3M` is not an option of memory: after the size come huge=default|thp|2M|1G, prealloc, shared",
        ),
        (
            "run --kernel k --memory 3M,huge=2M",
            "--memory: 3M is not a whole number of 2M huge pages: give a multiple of 2M, or huge=thp",
        ),
        (
            "run --kernel fd:x",
            "--kernel: `fd:x` is not a descriptor: write fd:N, N from 0 to 2147483647, or ./fd:… for a file of that name",
        ),
        ("run --kernel=", "--kernel: the path is empty: name a file"),
        (
            "run --kaslr on",
            "--kaslr: `on` does not say how to place the kernel: write random, off, or a seed (a whole number)",
        ),
        (
            "run --kaslr 18446744073709551616",
            "--kaslr: the seed `18446744073709551616` is too large: give one below 2^64",
        ),
        ("run --unpack maybe", "--unpack: `maybe` is neither on nor off: write one of them"),
        ("run --invtsc=1", "--invtsc: `1` is neither on nor off: write one of them"),
        (
            "run --disk path=a --disk path=b,queues=1000",
            "--disk path=b,queues=1000: queues: `1000` is no number of queues: give 1 to 255",
        ),
        (
            "run --net tap=a,queues=0",
            "--net tap=a,queues=0: queues: `0` is no number of queues: give 1 to 255",
        ),
        ("run --disk foo.img", "--disk foo.img: `foo.img` is no option: did you mean path=foo.img?"),
        ("run --disk path", "--disk path: path: a value is missing: write path=…"),
        ("run --disk=", "--disk: `path` is missing: add path=…"),
        ("run --net tap0", "--net tap0: `tap0` is no option: did you mean tap=tap0?"),
        ("run --net mtu=1500", "--net mtu=1500: nothing is at its other end: name a tap or a passt"),
        (
            "run --kernel k --net tap=a --net tap=b --net tap=a",
            "--net: two have the tap `a`: give each one of its own",
        ),
        (
            "run --kernel k --port name=a,file=b --port name=a,file=c",
            "--port: two have the name `a`: give each one of its own",
        ),
        (
            "run --firmware f --fw-cfg name=x",
            "--fw-cfg name=x: give its content by file=FILE or by string=TEXT",
        ),
        ("run --rng=pci", "--rng pci: `pci` is no option: did you mean transport=pci?"),
        ("run --console tty", "--console: `tty` is no place for a console: write stdio, file=PATH or off"),
        ("run --timeline-origin -1", "unexpected argument '-1' found; --help explains"),
        (
            "run --timeline-origin=1s",
            "--timeline-origin: `1s` is not a time: give nanoseconds of CLOCK_MONOTONIC as a whole number",
        ),
        (
            "run --firmware f --initrd i",
            "--initrd: this is for a kernel, and there is none: give a kernel as well, or leave this out",
        ),
        (
            "run --firmware f --cmdline c",
            "--cmdline: this is for a kernel, and there is none: give a kernel as well, or leave this out",
        ),
        (
            "run --config /nonexistent/x",
            "/nonexistent/x: cannot read this configuration file, No such file or directory (os error 2): name one that can be read",
        ),
        (
            "run --config fd:1000000",
            "fd:1000000: cannot read this configuration file, Bad file descriptor (os error 9): name one that can be read",
        ),
        (
            "run --config /dev/zero",
            "/dev/zero: this is no configuration file, it has more than 1048576 bytes: check the name",
        ),
        (
            "completions csh",
            "invalid value 'csh' for '<SHELL>'; [possible values: bash, elvish, fish, powershell, zsh]; tip: a similar value exists: 'zsh'; --help explains",
        ),
    ] {
        let args: Vec<_> = args.split(' ').collect();
        assert_eq!(jiffy(&args).unwrap_err().to_string(), expected, "{args:?}");
    }
}

#[test]
fn tips_name_flags_that_there_are() {
    for (theirs, ours) in elsewhere::FLAGS {
        let known = |name| RawConfigOnly::command().get_arguments().any(|arg| arg.get_long() == Some(name));
        assert!((known(ours) || ours == "config") && !known(theirs), "{theirs}");
    }
}

#[test]
fn help_tells_the_truth() {
    let help = printed(&["run", "--help"]);
    assert!(help.contains(&format!("[default: {DEFAULT_CMDLINE}]")));
    assert!(help.contains(&format!("[default: {}]", MemorySize::DEFAULT)));
    assert!(help.contains(&format!("1 to {}", Cpus::MAX.get())));
    let long_lines: Vec<_> = help.lines().filter(|line| line.chars().count() > 110).collect();
    assert!(long_lines.is_empty(), "{long_lines:#?}");
    assert_eq!(printed(&[]), printed(&["--help"]));
    assert_eq!(printed(&["--version"]), format!("jiffy {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn flags_and_keys_have_the_same_names() {
    let command = RawConfigOnly::command();
    let mut flags: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
    let mut keys = config::fields::<RawConfig>().to_vec();
    flags.sort_unstable();
    keys.sort_unstable();
    assert_eq!(flags, keys);
}

/// The flags that are keys as well.
#[derive(clap::Parser)]
struct RawConfigOnly {
    #[command(flatten)]
    _raw: RawConfig,
}

#[test]
fn names_of_choices_are_the_same_in_flags_and_files() {
    fn check<T: ValueEnum + Serialize>() {
        for choice in T::value_variants() {
            let in_flags = choice.to_possible_value().unwrap();
            assert_eq!(serde_json::to_value(choice).unwrap(), in_flags.get_name());
        }
    }
    check::<Protocol>();
    check::<HugePages>();
    check::<MachineKind>();
    check::<TimelineMode>();
}

#[test]
fn completions_know_the_flags() {
    for shell in clap_complete::Shell::value_variants() {
        let text = printed(&["completions", &shell.to_string()]);
        assert!(text.contains("timeline-origin"), "{shell}");
    }
}

proptest! {
    #[test]
    fn any_arguments_give_a_command_or_one_line(args in prop::collection::vec("(--)?\\PC{0,12}|run|\n|--memory=.*", 0..6)) {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        // A file that exists by chance is not the matter here.
        prop_assume!(!args.iter().any(|arg| arg.starts_with("--c")));
        if let Err(e) = jiffy(&args) {
            prop_assert_eq!(e.to_string().lines().count(), 1);
        }
    }
}

#[test]
fn the_configuration_file_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (config, link, other) = (path("vm.toml"), path("link"), path("other"));
    std::fs::write(&config, "kernel = 'k'\n").unwrap();
    std::fs::hard_link(&config, &link).unwrap();
    std::fs::write(&other, "").unwrap();
    let with = |flag: &str| jiffy(&["run", "--config", &config, flag]);
    for (flag, name) in [("--console", "file="), ("--result", ""), ("--port", "name=a,file=")] {
        let error = with(&format!("{flag}={name}{link}")).unwrap_err().to_string();
        assert_eq!(error, format!("{flag} {link}: is the file that --config names: give another one"));
        with(&format!("{flag}={name}{other}")).unwrap();
        with(&format!("{flag}={name}{}", path("absent"))).unwrap();
    }
    jiffy(&["run", "--config", "/dev/null", "--kernel", "k", "--console", "file=/dev/null"]).unwrap();
}
