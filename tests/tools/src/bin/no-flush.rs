//! Runs a program whose flushes are lies: the kernel says that it has done them, and has not. io_uring it has not got.
//!
//! Usage: `no-flush COMMAND [ARG …]`.
#![allow(unsafe_code, reason = "a filter of system calls is installed by prctl")]

use std::io::Error;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, ENOSYS, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP,
    SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SYS_fdatasync, SYS_fsync, SYS_io_uring_setup,
    SYS_msync, sock_filter, sock_fprog,
};

/// What makes data durable.
const FLUSHES: [i64; 3] = [SYS_fsync, SYS_fdatasync, SYS_msync];

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else {
        eprintln!("usage: no-flush COMMAND [ARG …]");
        return ExitCode::from(125);
    };
    let error = match install() {
        Ok(()) => Command::new(program).args(args).exec(),
        Err(error) => error,
    };
    eprintln!("no-flush: {error}");
    ExitCode::from(125)
}

fn install() -> Result<(), Error> {
    let statement = |code: u32, k: u32, jt: u8| sock_filter { code: code as u16, jt, jf: 0, k };
    // The number of the call is the first word of what a filter sees (`struct seccomp_data`).
    let mut filter = vec![statement(BPF_LD | BPF_W | BPF_ABS, 0, 0)];
    for (call, left) in FLUSHES.iter().zip((0..FLUSHES.len() as u8).rev()) {
        filter.push(statement(BPF_JMP | BPF_JEQ | BPF_K, *call as u32, left + 2));
    }
    // A ring would flush unseen.
    filter.push(statement(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup as u32, 2));
    filter.push(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0));
    // An error with the number 0: it is not made, and has succeeded.
    filter.push(statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO, 0));
    filter.push(statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS as u32, 0));
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: plain numbers.
    let alone = unsafe { libc::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the program and its statements live through the call, which copies them.
    let filtered = unsafe { libc::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) };
    if alone == 0 && filtered == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
