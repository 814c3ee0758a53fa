//! The pages of a region: their mapping, and which of them the VMM itself has written. What vCPUs write, KVM's own log
//! knows.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};

use super::mapping::Mapping;

/// Bytes in a page.
pub const PAGE: usize = 4096;

/// What goes with a region of vm-memory's, as its bitmap: it lives and ends with the region, so the mapping is here
/// as well. The bitmap of dirty pages costs a load per write until tracking starts.
#[derive(Debug)]
pub struct Pages {
    len: usize,
    mapping: Option<Mapping>,
    on: AtomicBool,
    words: OnceLock<Box<[AtomicU64]>>,
}

impl Pages {
    /// The pages of a region of `len` bytes.
    #[must_use]
    pub fn new(len: usize, mapping: Option<Mapping>) -> Self {
        Self { len, mapping, on: AtomicBool::new(false), words: OnceLock::new() }
    }

    /// The mapping, where it is one of ours.
    pub fn mapping(&self) -> Option<&Mapping> {
        self.mapping.as_ref()
    }

    /// Starts tracking, with every page clean.
    pub fn start(&self) {
        let words = self
            .words
            .get_or_init(|| (0..self.len.div_ceil(PAGE).div_ceil(64)).map(|_| AtomicU64::new(0)).collect());
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
        self.on.store(true, Ordering::Release);
    }

    /// Stops tracking.
    pub fn stop(&self) {
        self.on.store(false, Ordering::Release);
    }

    /// Whether pages are tracked.
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// The dirty pages, 64 to a word, lowest bit first; they count as clean from now on.
    pub fn take(&self) -> Vec<u64> {
        self.words
            .get()
            .map_or_else(Vec::new, |words| words.iter().map(|w| w.swap(0, Ordering::AcqRel)).collect())
    }

    #[cold]
    fn mark(&self, offset: usize, len: usize) {
        let (Some(words), Some(last)) = (self.bits(), len.checked_sub(1)) else { return };
        let Some(end) = self.len.checked_sub(1) else { return };
        for page in offset / PAGE..=offset.saturating_add(last).min(end) / PAGE {
            words[page / 64].fetch_or(1 << (page % 64), Ordering::AcqRel);
        }
    }

    fn bits(&self) -> Option<&[AtomicU64]> {
        if self.is_on() { self.words.get().map(AsRef::as_ref) } else { None }
    }
}

impl<'a> WithBitmapSlice<'a> for Pages {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for Pages {
    // For every buffer: an optimizer for size would call it.
    #[inline(always)]
    fn mark_dirty(&self, offset: usize, len: usize) {
        if self.is_on() {
            self.mark(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / PAGE;
        self.bits()
            .and_then(|words| words.get(page / 64))
            .is_some_and(|word| word.load(Ordering::Acquire) >> (page % 64) & 1 == 1)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracks_only_while_on() {
        let dirty = Pages::new(200 * PAGE, None);
        dirty.mark_dirty(0, 1);
        assert!(dirty.take().is_empty(), "no memory before tracking starts");
        dirty.start();
        dirty.mark_dirty(63 * PAGE + 1, PAGE);
        dirty.mark_dirty(199 * PAGE, 10 * PAGE);
        dirty.mark_dirty(0, 0);
        assert!(dirty.dirty_at(64 * PAGE) && !dirty.dirty_at(65 * PAGE));
        assert_eq!(dirty.take(), [1 << 63, 1, 0, 1 << 7]);
        assert_eq!(dirty.take(), [0; 4]);
        dirty.stop();
        dirty.mark_dirty(0, PAGE);
        assert_eq!(dirty.take(), [0; 4]);
    }
}
