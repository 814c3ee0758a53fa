//! Configuration space as a page that the guest reads without an exit.

use std::sync::Once;

use crate::devices::pci::ConfigSpace;
use crate::memory::Shown;

/// Such a page, for as long as reads have no side effects.
pub(super) struct Page {
    shown: Shown,
    hide: Box<dyn Fn() + Send + Sync>,
    hidden: Once,
}

impl Page {
    /// A page that shows `config`; `hide` has the guest exit for reads as well.
    pub(super) fn new(shown: Shown, hide: Box<dyn Fn() + Send + Sync>, config: &ConfigSpace) -> Self {
        shown.set_bytes(0, config.bytes());
        Self { shown, hide, hidden: Once::new() }
    }

    /// `len` bytes at `offset` have been written. What is read through the capability at `window` is a register of the
    /// BAR's, so that a page cannot have it: a driver that says how much it wants to read there goes on by exits.
    pub(super) fn written(&self, config: &ConfigSpace, window: usize, offset: usize, len: usize) {
        if config.dword(window + 12) != 0 {
            self.hidden.call_once(&self.hide);
        }
        let bytes = config.bytes();
        let first = (offset & !3).min(bytes.len());
        let end = (offset + len).next_multiple_of(4).min(bytes.len());
        self.shown.set_bytes(first, &bytes[first..end.max(first)]);
    }
}
