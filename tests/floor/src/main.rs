//! The least that starting a VM can cost: only the system calls that cannot be avoided, and a guest that marks
//! and stops at once. `floor.c` beside this package does the same in C.
//!
//! Usage: `floor SIZE_IN_MIB`; prints `mark NS CPU_NS`: when the guest marked (`CLOCK_MONOTONIC`), and the CPU
//! time that the process had used by then.
#![no_main]
#![allow(unsafe_code, reason = "raw ioctls are what is measured here")]

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::io::{Error, Write as _, stdout};
use std::ptr::{from_mut, null_mut};

use kvm_bindings::{
    KVM_EXIT_IO, kvm_cpuid_entry2, kvm_regs, kvm_run, kvm_sregs, kvm_userspace_memory_region,
};
use rustix::time::{ClockId, clock_gettime};

/// Where the guest marks, where it stops, and where its code stands.
const MARK: u16 = 0x700;
const STOP: u16 = 0x600;
const ENTRY: u16 = 0x1000;
/// RAM from the 32-bit hole on continues at 4 GiB.
const HOLE: u64 = 0xc000_0000;
const AFTER_HOLE: u64 = 0x1_0000_0000;

/// Real-mode code: one byte to [`MARK`], one to [`STOP`].
const GUEST: [u8; 11] = {
    let [m0, m1] = MARK.to_le_bytes();
    let [s0, s1] = STOP.to_le_bytes();
    [
        0xba, m0, m1, // mov dx, MARK
        0xb0, 0x80, // mov al, 0x80
        0xee, // out dx, al
        0xba, s0, s1,   // mov dx, STOP
        0xee, // out dx, al
        0xf4, // hlt
    ]
};

/// `_IO`, `_IOR`, `_IOW` and `_IOWR` of KVM's ioctls (Linux, `include/uapi/linux/kvm.h`).
const fn request(direction: c_ulong, nr: c_ulong, size: usize) -> c_ulong {
    const KVMIO: c_ulong = 0xae;
    direction << 30 | (size as c_ulong) << 16 | KVMIO << 8 | nr
}
const NONE: c_ulong = 0;
const WRITE: c_ulong = 1;
const READ: c_ulong = 2;
const CREATE_VM: c_ulong = request(NONE, 0x01, 0);
const GET_VCPU_MMAP_SIZE: c_ulong = request(NONE, 0x04, 0);
const GET_SUPPORTED_CPUID: c_ulong = request(READ | WRITE, 0x05, 8);
const CREATE_VCPU: c_ulong = request(NONE, 0x41, 0);
const SET_USER_MEMORY_REGION: c_ulong = request(WRITE, 0x46, size_of::<kvm_userspace_memory_region>());
const CREATE_IRQCHIP: c_ulong = request(NONE, 0x60, 0);
const RUN: c_ulong = request(NONE, 0x80, 0);
const SET_REGS: c_ulong = request(WRITE, 0x82, size_of::<kvm_regs>());
const GET_SREGS: c_ulong = request(READ, 0x83, size_of::<kvm_sregs>());
const SET_SREGS: c_ulong = request(WRITE, 0x84, size_of::<kvm_sregs>());
const SET_CPUID2: c_ulong = request(WRITE, 0x90, 8);

/// `kvm_cpuid2` with room for as many entries as KVM has at most.
#[repr(C)]
struct Cpuid {
    nent: u32,
    padding: u32,
    entries: [kvm_cpuid_entry2; 256],
}

/// Ends the program with a line on what failed.
fn fail(what: &str) -> ! {
    eprintln!("floor: {what}: {}", Error::last_os_error());
    std::process::exit(125)
}

fn ioctl(fd: c_int, request: c_ulong, what: &str) -> c_int {
    // SAFETY: these requests take no argument, or ignore a zero.
    let result = unsafe { libc::ioctl(fd, request, 0) };
    if result < 0 { fail(what) } else { result }
}

/// An ioctl on a structure.
///
/// # Safety
///
/// `T` must be what `request` reads or writes.
unsafe fn ioctl_with<T>(fd: c_int, request: c_ulong, argument: &mut T, what: &str) {
    // SAFETY: the reference is valid for reads and writes, and the caller vouches for the type.
    if unsafe { libc::ioctl(fd, request, from_mut(argument)) } < 0 {
        fail(what);
    }
}

fn map(length: usize, flags: c_int, fd: c_int) -> *mut c_void {
    // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
    let start = unsafe { libc::mmap(null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0) };
    if start == libc::MAP_FAILED { fail("mmap") } else { start }
}

fn now(clock: ClockId) -> i64 {
    let t = clock_gettime(clock);
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}

/// C's entry: Rust's own runtime, which looks at descriptors and signal stacks, is not started.
///
/// # Safety
///
/// Called by the C library, with `argv` as the C standard has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    if argc != 2 {
        eprintln!("usage: floor SIZE_IN_MIB");
        return 125;
    }
    // SAFETY: argc is 2, so that argv[1] is there.
    let argument = unsafe { *argv.wrapping_add(1) };
    // SAFETY: a NUL-terminated string that lives as long as the process.
    let argument = unsafe { CStr::from_ptr(argument) };
    let mib: Option<u64> = argument.to_str().ok().and_then(|s| s.parse().ok());
    match mib.and_then(|m| m.checked_mul(1 << 20)).filter(|&size| size > 0) {
        Some(size) => start(size),
        None => {
            eprintln!("floor: {argument:?} is not a size in MiB");
            125
        }
    }
}

fn start(size: u64) -> c_int {
    // SAFETY: the path is a NUL-terminated string.
    let kvm = unsafe { libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if kvm < 0 {
        fail("open /dev/kvm");
    }
    let vm = ioctl(kvm, CREATE_VM, "KVM_CREATE_VM");

    let ram =
        map(size as usize, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1).cast::<u8>();
    // SAFETY: RAM is at least 1 MiB, and nobody else has it yet.
    unsafe { ram.wrapping_add(ENTRY.into()).copy_from_nonoverlapping(GUEST.as_ptr(), GUEST.len()) };
    let low = size.min(HOLE);
    let regions = [(0, 0, low), (AFTER_HOLE, low, size - low)].into_iter().filter(|r| r.2 > 0).zip(0..);
    for ((guest_phys_addr, offset, memory_size), slot) in regions {
        let userspace_addr = ram as u64 + offset;
        let mut region =
            kvm_userspace_memory_region { slot, flags: 0, guest_phys_addr, memory_size, userspace_addr };
        // SAFETY: the type is the request's; the mapping lives as long as the process.
        unsafe { ioctl_with(vm, SET_USER_MEMORY_REGION, &mut region, "KVM_SET_USER_MEMORY_REGION") };
    }

    ioctl(vm, CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP");
    let vcpu = ioctl(vm, CREATE_VCPU, "KVM_CREATE_VCPU");
    let run_size = ioctl(kvm, GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE");
    let run = map(run_size as usize, libc::MAP_SHARED, vcpu).cast::<kvm_run>();

    let mut cpuid = Cpuid { nent: 256, padding: 0, entries: [kvm_cpuid_entry2::default(); 256] };
    // SAFETY: the type is the request's, with as many entries as it says.
    unsafe { ioctl_with(kvm, GET_SUPPORTED_CPUID, &mut cpuid, "KVM_GET_SUPPORTED_CPUID") };
    // SAFETY: as above.
    unsafe { ioctl_with(vcpu, SET_CPUID2, &mut cpuid, "KVM_SET_CPUID2") };
    let mut sregs = kvm_sregs::default();
    // SAFETY: the type is the request's.
    unsafe { ioctl_with(vcpu, GET_SREGS, &mut sregs, "KVM_GET_SREGS") };
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    // SAFETY: as above.
    unsafe { ioctl_with(vcpu, SET_SREGS, &mut sregs, "KVM_SET_SREGS") };
    let mut regs = kvm_regs { rip: ENTRY.into(), rflags: 2, ..Default::default() };
    // SAFETY: as above.
    unsafe { ioctl_with(vcpu, SET_REGS, &mut regs, "KVM_SET_REGS") };

    let mut mark = (0, 0);
    loop {
        ioctl(vcpu, RUN, "KVM_RUN");
        // SAFETY: KVM has filled the structure, and writes to it only in KVM_RUN.
        let run = unsafe { &*run };
        if run.exit_reason != KVM_EXIT_IO {
            eprintln!("floor: KVM_RUN: exit reason {}", run.exit_reason);
            return 125;
        }
        // SAFETY: for this exit reason, `io` is the member of the union that is filled.
        let port = unsafe { run.__bindgen_anon_1.io.port };
        if port == STOP {
            break;
        }
        mark = (now(ClockId::Monotonic), now(ClockId::ProcessCPUTime));
    }
    match writeln!(stdout(), "mark {} {}", mark.0, mark.1) {
        Ok(()) => 0,
        Err(_) => fail("standard output"),
    }
}
