//! Several of the driver's buffers at a time, for what the guest receives: taken together, filled by one call of the
//! kernel's, and given back together.

use smallvec::SmallVec;

use super::chain::Chain;

/// One of the chains.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// What gives it back: see [`super::Rings::push_all`].
    pub head: u16,
    /// How many of the slices are its own.
    pub pieces: u16,
    /// Bytes that it has room for.
    pub room: u32,
}

/// Chains that were taken by [`super::Rings::gather`] and not given back yet.
#[derive(Debug, Default)]
pub struct Batch<'m> {
    /// In the order in which they were taken.
    pub chains: SmallVec<[Taken; 4]>,
    /// The buffers of all of them that may be written.
    pub buffers: Chain<'m>,
    /// Bytes that all of them have room for.
    pub room: usize,
}

impl Batch<'_> {
    /// Makes room for so many more chains of one buffer each.
    pub(super) fn reserve(&mut self, chains: usize) {
        self.chains.reserve(chains);
        self.buffers.writable.reserve(chains);
    }

    /// Appends a chain whose `pieces` last buffers are there already.
    #[inline(always)]
    pub(super) fn append(&mut self, head: u16, pieces: usize, room: u32) {
        // A chain has no more than `MAX_CHAIN`.
        self.chains.push(Taken { head, pieces: pieces as u16, room });
        self.room += room as usize;
    }

    /// The first `count` chains have been given back.
    pub fn drop_first(&mut self, count: usize) {
        if count == self.chains.len() {
            self.chains.clear();
            self.buffers.clear();
            self.room = 0;
            return;
        }
        let mut pieces = 0;
        for taken in self.chains.drain(..count) {
            pieces += usize::from(taken.pieces);
            self.room -= taken.room as usize;
        }
        self.buffers.writable.drain(..pieces);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;
    use crate::devices::virtio::testing::FakeDriver;
    use crate::devices::virtio::{Context, DeviceKind, Error, VirtioDevice};
    use crate::memory::Slice;
    use crate::state;

    /// Gathers for lengths of this list, one after the other, and gives back all that was gathered, a few at a time.
    struct Gatherer {
        asked: Vec<(usize, usize)>,
        given: Arc<Mutex<usize>>,
    }

    fn places(buffers: &[Slice<'_>]) -> Vec<(usize, usize)> {
        buffers.iter().map(|buffer| (buffer.ptr_guard().as_ptr().addr(), buffer.len())).collect()
    }

    impl VirtioDevice for Gatherer {
        fn kind(&self) -> DeviceKind {
            DeviceKind::Net
        }

        fn queue_sizes(&self) -> &[u16] {
            &[16]
        }

        fn process_queue(&mut self, cx: &mut Context<'_>, queue: u16) -> Result<(), Error> {
            let mut batch = Batch::default();
            for &(len, most) in &self.asked {
                cx.gather(queue, &mut batch, len, most)?;
                // The same chains are taken one by one.
                batch.chains.iter().for_each(|_| cx.undo_pop(queue));
                let (mut room, mut buffers) = (0, Vec::new());
                for (at, taken) in batch.chains.iter().enumerate() {
                    assert!(room < len && at < most, "more than was asked for");
                    let chain = cx.pop(queue)?.unwrap();
                    let all = chain.writable.iter().map(Slice::len).sum::<usize>();
                    assert_eq!(
                        (taken.head, usize::from(taken.pieces), taken.room as usize),
                        (chain.head, chain.writable.len(), all)
                    );
                    buffers.extend(places(&chain.writable));
                    room += all;
                }
                assert_eq!((batch.room, places(&batch.buffers.writable)), (room, buffers));
                if room < len && batch.chains.len() < most {
                    assert!(cx.pop(queue)?.is_none(), "less than was there");
                }
                let count = batch.chains.len().div_ceil(2);
                let used: Vec<_> =
                    batch.chains[..count].iter().map(|taken| (taken.head, taken.room)).collect();
                cx.push_all(queue, used)?;
                let pieces: usize = batch.chains[..count].iter().map(|taken| usize::from(taken.pieces)).sum();
                let room: usize = batch.chains[count..].iter().map(|taken| taken.room as usize).sum();
                let (heads, left) = (batch.chains.len() - count, places(&batch.buffers.writable[pieces..]));
                batch.drop_first(count);
                assert_eq!((batch.chains.len(), batch.room), (heads, room));
                assert_eq!(places(&batch.buffers.writable), left);
                *self.given.lock().unwrap() += count;
                batch.chains.iter().for_each(|_| cx.undo_pop(queue));
                batch = Batch::default();
            }
            Ok(())
        }

        fn save(&self) -> Vec<u8> {
            Vec::new()
        }

        fn restore(&mut self, _saved: &[u8]) -> Result<(), state::Error> {
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Whatever chains there are, and however much is asked for, they are those that come one by one.
        #[test]
        fn gathers_what_pops_one_by_one(
            chains in prop::collection::vec((any::<bool>(), 0..2_usize, prop::collection::vec(0..3000_usize, 1..4)), 1..6),
            asked in prop::collection::vec((1..8000_usize, 1..6_usize), 1..6),
        ) {
            let given = Arc::new(Mutex::new(0));
            let mut driver = FakeDriver::new(Box::new(Gatherer { asked, given: Arc::clone(&given) }));
            for (indirect, readable, writable) in &chains {
                let readable: &[&[u8]] = &[b"to be read".as_slice()][..*readable];
                if *indirect {
                    driver.offer_indirect(0, readable, writable);
                } else {
                    driver.offer(0, readable, &writable[..1]);
                }
            }
            driver.kick(0);
            prop_assert!(!driver.needs_reset());
            let mut back = 0;
            while let Some(used) = driver.take(0) {
                let (_, _, writable) = &chains[back];
                let whole = if chains[back].0 { writable.iter().sum() } else { writable[0] };
                prop_assert_eq!(used.written as usize, whole);
                back += 1;
            }
            prop_assert_eq!(back, *given.lock().unwrap());
        }
    }
}
