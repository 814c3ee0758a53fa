//! A tap that is handed over as descriptors.
#![allow(unsafe_code, reason = "tun's ioctl has no safe wrapper")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};

const DEVICE: &str = "/dev/net/tun";

/// Executes `words`, in which `fd:*` stands for descriptors of the tap `name`, one for each of its queues.
pub fn hand_over(name: &str, queues: usize, words: &[&str]) -> Result<()> {
    let taps =
        (0..queues).map(|_| open(name, queues > 1).with_context(|| format!("cannot attach to {name}")));
    let taps = taps.collect::<Result<Vec<_>>>()?;
    let list: String = taps.into_iter().map(|tap| format!(":{}", tap.into_raw_fd())).collect();
    let words: Vec<String> = words.iter().map(|word| word.replace("fd:*", &format!("fd{list}"))).collect();
    let (program, rest) = words.split_first().context("no command")?;
    Err(Command::new(program).args(rest).exec()).with_context(|| format!("cannot execute {program}"))
}

/// Takes frames that are not segmented yet, and have no checksum.
pub fn take_segments(tap: &File) -> Result<()> {
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    // SAFETY: this request takes an integer.
    let set = unsafe {
        libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD as libc::c_ulong, libc::c_ulong::from(offloads))
    };
    ensure!(set == 0, "TUNSETOFFLOAD: {}", io::Error::last_os_error());
    Ok(())
}

/// One queue of a tap, open in whatever is executed.
pub fn open(name: &str, several: bool) -> Result<File> {
    let name = CString::new(name)?;
    ensure!(name.as_bytes().len() < libc::IFNAMSIZ, "the name is too long");
    // SAFETY: all fields are integers and pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, &from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = (flags | if several { libc::IFF_MULTI_QUEUE } else { 0 }) as libc::c_short;
    let file = File::options().read(true).write(true).open(DEVICE).context(DEVICE)?;
    // SAFETY: this request reads and writes a `struct ifreq`.
    let attached =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as libc::c_ulong, &raw mut request) };
    ensure!(attached == 0, "TUNSETIFF: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is open, and only its flag changes.
    let kept = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
    ensure!(kept == 0, "F_SETFD: {}", io::Error::last_os_error());
    Ok(file)
}
