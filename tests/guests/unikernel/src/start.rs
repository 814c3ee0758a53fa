//! What the firmware tells.
#![allow(unsafe_code, reason = "reads what the firmware's addresses point at")]

use core::ffi::{CStr, c_char};

use abi::pvh::{self, MemoryRange, StartInfo};
use abi::unikernel;

/// The start info, checked.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    info: &'static StartInfo,
}

impl Start {
    /// Panics if this is not what the contract promises.
    #[must_use]
    pub fn new(start_info: u64, magic: u64) -> Self {
        assert_eq!(magic, unikernel::MAGIC, "not entered by the contract");
        // SAFETY: by the contract RDI is the address of a start info, which nothing writes to any more.
        let info = unsafe { &*(start_info as *const StartInfo) };
        assert_eq!((info.magic, info.version), (pvh::MAGIC, pvh::VERSION), "no start info");
        Self { info }
    }

    /// The command line.
    #[must_use]
    pub fn cmdline(&self) -> &'static str {
        if self.info.cmdline_paddr == 0 {
            return "";
        }
        // SAFETY: by the contract a string with NUL is there, which nothing writes to any more.
        let text = unsafe { CStr::from_ptr(self.info.cmdline_paddr as *const c_char) };
        text.to_str().unwrap_or_default()
    }

    /// What follows `name=` in the command line.
    #[must_use]
    pub fn word(&self, name: &str) -> Option<&'static str> {
        self.cmdline().split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// The memory map.
    #[must_use]
    pub fn memory(&self) -> &'static [MemoryRange] {
        let (at, count) = (self.info.memmap_paddr as *const MemoryRange, self.info.memmap_entries as usize);
        // SAFETY: by the contract as many ranges are there, which nothing writes to any more.
        unsafe { core::slice::from_raw_parts(at, count) }
    }
}
