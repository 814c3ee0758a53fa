//! Registers that the guest reads as memory, so that reading them takes no exit. For those whose reading has no side effect:
//! what a read would find is put there whenever it changes. KVM maps such pages readable only; writes exit as they always did.
#![allow(unsafe_code, reason = "the guest reads a mapping of ours")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::MapFlags;

use super::{Mapping, PAGE};

const WORD: usize = size_of::<u32>();
const WORDS: usize = PAGE / WORD;

/// A page of registers. Clones share it.
#[derive(Clone, Debug)]
pub struct Shown {
    mapping: Arc<Mapping>,
    start: usize,
}

impl Shown {
    /// So many pages in a row of one mapping, all zeroes.
    pub fn new(pages: usize) -> io::Result<Vec<Self>> {
        if pages == 0 {
            return Ok(Vec::new());
        }
        let mapping = Arc::new(Mapping::new(pages * PAGE, PAGE, MapFlags::PRIVATE, None)?);
        let page = |index| Self { mapping: Arc::clone(&mapping), start: index * PAGE };
        Ok((0..pages).map(page).collect())
    }

    /// The mapping with all pages of the row.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    fn words(&self) -> &[AtomicU32; WORDS] {
        let page = self.mapping.as_ptr().wrapping_add(self.start);
        // SAFETY: the page lies in the mapping, which is aligned to pages and stays while `self` does. We reach it by
        // atomics only; the guest and KVM only read it.
        unsafe { &*page.cast() }
    }

    /// The register at an offset in the page, a multiple of 4.
    #[must_use]
    pub fn at(&self, offset: u32) -> &AtomicU32 {
        &self.words()[offset as usize / WORD % WORDS]
    }

    /// Shows the value of a register.
    pub fn set(&self, offset: u32, value: u32) {
        self.at(offset).store(value, Ordering::Release);
    }

    /// Shows `bytes`, whole words of them, from an offset on that is a multiple of 4. A word that is the same is not written,
    /// and the others at once: a field of one word is never seen half changed.
    pub fn set_bytes(&self, offset: usize, bytes: &[u8]) {
        for (word, bytes) in self.words().iter().skip(offset / WORD).zip(bytes.as_chunks().0) {
            let value = u32::from_le_bytes(*bytes);
            if word.load(Ordering::Relaxed) != value {
                word.store(value, Ordering::Release);
            }
        }
    }

    /// Reads what is shown: for reads that come as exits all the same. Beyond the page there are zeroes.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (index, byte) in data.iter_mut().enumerate() {
            let at = (offset as usize).saturating_add(index);
            if let Some(word) = self.words().get(at / WORD) {
                *byte = word.load(Ordering::Acquire).to_le_bytes()[at % WORD];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lie_in_a_row_and_apart() {
        let pages = Shown::new(3).unwrap();
        pages[1].set(0x60, 7);
        pages[1].set_bytes(0xff8, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(pages[1].mapping().size(), 3 * PAGE);
        let read = |page: &Shown, offset| {
            let mut data = [0xff; 6];
            page.read(offset, &mut data);
            data
        };
        assert_eq!(read(&pages[1], 0x5f), [0, 7, 0, 0, 0, 0]);
        assert_eq!(read(&pages[1], 0xffb), [4, 5, 6, 7, 8, 0], "and nothing behind the page");
        for other in [&pages[0], &pages[2]] {
            assert!(other.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        }
        assert_eq!(read(&pages[2], u64::MAX), [0; 6]);
        assert!(Shown::new(0).unwrap().is_empty());
    }
}
