//! Reads or writes a file or a disk in requests of one size, so many at a time, and measures what one takes.
//!
//! Usage: `io-load FILE [CASE …]`, a case being `read|write|sync|get|put:BYTES:DEPTH:COUNT`. What it prints, says
//! [`tools::measure`]. `sync` writes and then makes it durable. Without the page cache where that can be left out. `get` and
//! `put` are for what has no places to choose from, one after the other.
#![allow(unsafe_code, reason = "asynchronous I/O of Linux, by its system calls")]

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::ptr;

/// `enum` of Linux's `include/uapi/linux/aio_abi.h`.
const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;
const PAGE: usize = 4096;

/// `struct iocb`, little-endian.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    lio_opcode: u16,
    reqprio: i16,
    fildes: u32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved2: u64,
    flags: u32,
    resfd: u32,
}

/// `struct io_event`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

struct Load {
    file: File,
    sync: bool,
    opcode: u16,
    bytes: usize,
    depth: usize,
    /// None where there are none to choose from.
    places: Option<u64>,
    seed: u64,
    buffers: *mut u8,
    context: libc::c_ulong,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((path, cases)) = args.split_first() else {
        eprintln!("usage: io-load FILE [read|write|sync|get|put:BYTES:DEPTH:COUNT …]");
        return ExitCode::from(125);
    };
    for case in cases {
        if let Err(error) = run(path, case) {
            eprintln!("io-load: {path}: {case}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(path: &str, case: &str) -> Result<()> {
    let bad = || Error::new(ErrorKind::InvalidInput, "not a case");
    let parts: Vec<&str> = case.split(':').collect();
    let [what, bytes, depth, count] = parts[..] else { return Err(bad()) };
    let number = |text: &str| text.parse::<usize>().map_err(|_| bad());
    let (bytes, depth, count) = (number(bytes)?, number(depth)?, number(count)?);
    let mut load = Load::new(path, what, bytes, depth)?;
    tools::measure(case, count, |count| load.requests(count))
}

impl Load {
    fn new(path: &str, what: &str, bytes: usize, depth: usize) -> Result<Self> {
        let writes = !["read", "get"].contains(&what);
        let open = |flags| OpenOptions::new().read(true).write(writes).custom_flags(flags).open(path);
        let file = open(libc::O_DIRECT).or_else(|_| open(0))?;
        let places = match what {
            "get" | "put" => None,
            _ => Some((&file).seek(SeekFrom::End(0))? / bytes as u64),
        };
        let buffers = scattered(bytes * depth)?;
        let mut context = 0;
        // SAFETY: the kernel writes to `context`, which lives through the call.
        check(unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut context) })?;
        let opcode = if writes { IOCB_CMD_PWRITE } else { IOCB_CMD_PREAD };
        let sync = what == "sync";
        Ok(Self { file, sync, opcode, bytes, depth, places, seed: 1, buffers, context })
    }

    /// A place that repeats in each run and is near none of the others.
    fn offset(&mut self) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % self.places.unwrap_or(1) * self.bytes as u64
    }

    fn requests(&mut self, count: usize) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let now = left.min(self.depth);
            if self.depth == 1 {
                self.one()?;
            } else {
                self.batch(now)?;
            }
            if self.sync {
                self.file.sync_data()?;
            }
            left -= now;
        }
        Ok(())
    }

    fn one(&mut self) -> Result<()> {
        let (fd, offset) = (self.file.as_raw_fd(), self.offset() as i64);
        let (buffer, bytes) = (self.buffers.cast(), self.bytes);
        let done = match (self.opcode == IOCB_CMD_PREAD, self.places) {
            // SAFETY: the first buffer is ours, and as long as that.
            (true, Some(_)) => unsafe { libc::pread(fd, buffer, bytes, offset) },
            // SAFETY: as above.
            (true, None) => unsafe { libc::read(fd, buffer, bytes) },
            // SAFETY: as above.
            (false, Some(_)) => unsafe { libc::pwrite(fd, buffer, bytes, offset) },
            // SAFETY: as above.
            (false, None) => unsafe { libc::write(fd, buffer, bytes) },
        };
        whole(done as i64, self.bytes)
    }

    fn batch(&mut self, count: usize) -> Result<()> {
        let mut requests = vec![Iocb::default(); count];
        for (index, request) in requests.iter_mut().enumerate() {
            *request = Iocb {
                lio_opcode: self.opcode,
                fildes: self.file.as_raw_fd() as u32,
                buf: self.buffers.wrapping_add(index * self.bytes) as u64,
                nbytes: self.bytes as u64,
                offset: self.offset() as i64,
                ..Iocb::default()
            };
        }
        let mut pointers: Vec<*mut Iocb> = requests.iter_mut().map(ptr::from_mut).collect();
        let mut sent = 0;
        while sent < count {
            let rest = &mut pointers[sent..];
            // SAFETY: requests and buffers stay until their events have come.
            let now = check(unsafe {
                libc::syscall(libc::SYS_io_submit, self.context, rest.len(), rest.as_mut_ptr())
            })?;
            sent += now as usize;
        }
        let mut events = vec![IoEvent::default(); count];
        let none = ptr::null_mut::<libc::timespec>();
        // SAFETY: there is room for so many events.
        let came = check(unsafe {
            libc::syscall(libc::SYS_io_getevents, self.context, count, count, events.as_mut_ptr(), none)
        })?;
        events[..came as usize].iter().try_for_each(|event| whole(event.res, self.bytes))
    }
}

/// Memory whose pages lie apart from each other: they are touched in an order of no pattern.
fn scattered(len: usize) -> Result<*mut u8> {
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: the kernel chooses the place.
    let memory = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    // SAFETY: the range is ours. A kernel without huge pages refuses, and that is as good.
    unsafe { libc::madvise(memory, len, libc::MADV_NOHUGEPAGE) };
    let pages = len.div_ceil(PAGE);
    let step = (1..).map(|n| pages * 5 / 8 + n).find(|&step| gcd(step, pages) == 1).unwrap_or(1);
    for index in 0..pages {
        let page = memory.cast::<u8>().wrapping_add(index * step % pages * PAGE);
        // SAFETY: a byte of the range.
        unsafe { page.write_volatile(1) };
    }
    Ok(memory.cast())
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn check(result: libc::c_long) -> Result<libc::c_long> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn whole(done: i64, bytes: usize) -> Result<()> {
    match usize::try_from(done) {
        Ok(done) if done == bytes => Ok(()),
        Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
        Err(_) if done == -1 => Err(Error::last_os_error()),
        Err(_) => Err(Error::from_raw_os_error(-done as i32)),
    }
}
