//! Packets that nobody waits for, right before one that somebody does: Linux 6.12 tells of its room in a packet of its own
//! when a program has read all that there was, and mostly the program answers then. A driver that does so again and again
//! need not ring for the first of the two; a timer sees to what comes otherwise.

/// Pairs in a row from which on it is a habit.
const PAIRS: u32 = 8;
/// The same for a driver that has broken with it: twice as many each time, up to this.
const MOST: u32 = 4096;

/// What the driver's packets have been like.
#[derive(Debug)]
pub(super) struct Habit {
    /// Pairs in a row.
    pairs: u32,
    /// The same when it was last asked whether it goes on.
    before: u32,
    needed: u32,
    /// The last packet was the first of a pair.
    begun: bool,
    /// The driver does not ring for the next packet.
    relied: bool,
}

impl Default for Habit {
    fn default() -> Self {
        Self { pairs: 0, before: 0, needed: PAIRS, begun: false, relied: false }
    }
}

impl Habit {
    /// A packet was taken; whether something came of it.
    pub(super) fn packet(&mut self, of_use: bool) {
        let relied = std::mem::take(&mut self.relied);
        if !of_use {
            self.begun = true;
        } else if std::mem::take(&mut self.begun) {
            self.pairs = self.pairs.saturating_add(1);
        } else {
            self.pairs = 0;
            if relied {
                self.needed = (2 * self.needed).min(MOST);
            }
        }
    }

    /// Whether the next packet is one that nobody waits for, most likely.
    pub(super) fn holds(&self) -> bool {
        self.pairs >= self.needed && !self.begun
    }

    /// Whether there were pairs since this was last asked: nobody looks for packets of a driver that has fallen silent.
    pub(super) fn goes_on(&mut self) -> bool {
        std::mem::replace(&mut self.before, self.pairs) != self.pairs
    }

    /// Whether the driver was told that it need not ring for the next packet.
    pub(super) fn rely(&mut self, relied: bool) {
        self.relied = relied;
    }

    /// Whether there may be a packet that the driver did not ring for.
    pub(super) fn is_relied_on(&self) -> bool {
        self.relied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_a_habit_and_who_breaks_it_has_to_show_more() {
        let mut habit = Habit::default();
        let pairs = |habit: &mut Habit, count| {
            for _ in 0..count {
                assert!(!habit.holds());
                [false, true].into_iter().for_each(|of_use| habit.packet(of_use));
            }
            assert!(habit.holds());
        };
        pairs(&mut habit, PAIRS);
        habit.packet(false);
        assert!(!habit.holds(), "the second of a pair is waited for");
        habit.packet(true);
        assert!(habit.holds());
        habit.packet(true);
        pairs(&mut habit, PAIRS);
        habit.rely(true);
        habit.packet(true);
        pairs(&mut habit, 2 * PAIRS);
        for _ in 0..20 {
            habit.rely(true);
            habit.packet(true);
        }
        pairs(&mut habit, MOST);
    }
}
