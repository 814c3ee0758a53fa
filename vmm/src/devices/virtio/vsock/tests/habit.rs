//! Drivers that tell of their room before they answer.

use super::*;

impl Guest {
    /// Sends a packet, and rings if the device wants that; whether it did.
    fn put(&mut self, key: Key, op: u16, data: &[u8]) -> bool {
        let header = Header { len: (data.len() as u32).into(), ..Self::header(key, op) };
        self.driver.offer(TRANSMIT, &[header.as_bytes(), data], &[]);
        let rings = self.driver.is_awaited(TRANSMIT);
        if rings {
            self.driver.kick(TRANSMIT);
        }
        rings
    }

    /// Hears something, tells of its room, and answers; for which of both it rang.
    fn answer(&mut self, key: Key, stream: &mut UnixStream) -> [bool; 2] {
        stream.write_all(b"ping").unwrap();
        assert_eq!(self.receive().unwrap().1, b"ping");
        let rang = [self.put(key, op::CREDIT_UPDATE, b""), self.put(key, op::RW, b"pong")];
        assert_eq!(said(stream), b"pong");
        while self.driver.take(TRANSMIT).is_some() {}
        rang
    }
}

#[test]
fn a_driver_rings_once_for_both() {
    let mut guest = Guest::new();
    let (key, mut stream) = guest.opened(5);
    let first = (0..100).find(|_| guest.answer(key, &mut stream) == [false, true]).expect("a habit");
    assert!(first > 3, "after {first}");
    // On a busy host the timer may have expired, and more than once: then it is heard at once, and begins anew.
    while guest.put(key, op::RW, b"something else") {
        assert!(!said(&mut stream).is_empty());
        while guest.answer(key, &mut stream) != [false, true] {}
    }
    while said(&mut stream).is_empty() {
        guest.driver.wait();
    }
    assert!(guest.put(key, op::RW, b"it is heard at once again"));
    assert!(!said(&mut stream).is_empty());
}

#[test]
fn a_driver_that_has_stopped_is_heard_at_once_again() {
    let mut guest = Guest::new();
    let (key, mut stream) = guest.opened(5);
    while guest.answer(key, &mut stream) != [false, true] {}
    // The timer expires, and once more since there had been packets.
    (0..2).for_each(|_| guest.driver.wait());
    assert!(guest.put(key, op::CREDIT_UPDATE, b""));
    assert!(guest.put(key, op::RW, b"rings"));
    assert_eq!(said(&mut stream), b"rings");
}

#[test]
fn who_has_little_room_rings_for_each() {
    for (size, all) in [(ROOMY / 2, true), (ROOMY, false)] {
        let mut guest = Guest::with(size);
        let (key, mut stream) = guest.opened(5);
        assert_eq!((0..50).all(|_| guest.answer(key, &mut stream) == [true, true]), all, "{size}");
    }
}

#[test]
fn a_habit_is_the_drivers_whatever_the_stream() {
    let mut guest = Guest::new();
    let mut both = [guest.opened(5), guest.opened(6)];
    let rings_once = |of: &usize| {
        let (key, stream) = &mut both[of % 2];
        guest.answer(*key, stream) == [false, true]
    };
    // A habit for each of them would take each of them as long.
    let first = (0..100).find(rings_once).expect("a habit");
    assert!(first < 2 * 8, "after {first}");
}

#[test]
fn streams_to_the_host_ring_for_each() {
    let mut guest = Guest::new();
    let (key, mut stream) = guest.opened(5);
    for _ in 0..50 {
        assert!(guest.put(key, op::RW, b"data"));
    }
    assert_eq!(said(&mut stream).len(), 200);
}
