//! What unikernels share: how they are told things, how they speak and end, and a network device.
#![no_std]

pub mod machine;
pub mod memory;
pub mod net;
pub mod pci;
pub mod start;

/// Makes `$main`, a function of [`start::Start`], what the firmware enters.
#[macro_export]
macro_rules! unikernel {
    ($main:path) => {
        core::arch::global_asm!(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../vmm/abi/src/memory.S"
        )));

        /// The firmware enters here, in the state that `abi::unikernel` promises.
        #[unsafe(no_mangle)]
        extern "sysv64" fn _start(start_info: u64, magic: u64) -> ! {
            $main($crate::start::Start::new(start_info, magic));
            $crate::machine::end(0)
        }

        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::say!("unikernel: {info}");
            $crate::machine::end(1)
        }
    };
}
