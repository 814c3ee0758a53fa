//! The ends of streams against a model: whoever closes which half or resets, what was sent before comes first, and the other
//! side learns of it once.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use proptest::prelude::*;

use super::{BUF_ALLOC, GUEST_ALLOC, Guest, Header, Key, SHUT_RECEIVE, SHUT_SEND, op};

const BOTH: u32 = SHUT_SEND | SHUT_RECEIVE;

#[derive(Clone, Copy, Debug)]
enum Move {
    HostWrites(usize),
    GuestWrites(usize),
    HostReads,
    GuestReads,
    HostEndsItsHalf,
    GuestEndsItsHalf,
    HostIsGone,
    GuestResets,
}

fn moves() -> impl Strategy<Value = Vec<(usize, Move)>> {
    let size = || prop_oneof![1_usize..200, 1_usize..9000, 60_000_usize..140_000];
    let one = prop_oneof![
        6 => size().prop_map(Move::HostWrites),
        6 => size().prop_map(Move::GuestWrites),
        2 => Just(Move::HostReads),
        4 => Just(Move::GuestReads),
        1 => Just(Move::HostEndsItsHalf),
        1 => Just(Move::GuestEndsItsHalf),
        1 => Just(Move::HostIsGone),
        1 => Just(Move::GuestResets),
    ];
    prop::collection::vec((0_usize..3, one), 1..50)
}

/// A stream as both of its ends see it.
struct Model {
    key: Key,
    /// None once the host program is gone.
    host: Option<UnixStream>,
    /// What was written, and what of that has come out.
    to_guest: (Vec<u8>, Vec<u8>),
    to_host: (Vec<u8>, Vec<u8>),
    granted: u32,
    /// Bytes that the guest has said it has read.
    told: usize,
    host_ended: bool,
    guest_ended: bool,
    /// The host program was gone with something unread, so that what it had written last may be lost as well.
    torn: bool,
    /// The guest has reset the stream; and what was sent before may still come.
    reset: bool,
    late: bool,
    /// Flags that the guest was told, and whether it was told of a reset.
    seen: u32,
    over: bool,
    eof: bool,
}

impl Model {
    fn new(key: Key, host: UnixStream) -> Self {
        host.set_nonblocking(true).unwrap();
        Self {
            key,
            host: Some(host),
            to_guest: Default::default(),
            to_host: Default::default(),
            granted: BUF_ALLOC,
            told: 0,
            host_ended: false,
            guest_ended: false,
            torn: false,
            reset: false,
            late: false,
            seen: 0,
            over: false,
            eof: false,
        }
    }

    fn may_send(&self) -> bool {
        !self.guest_ended && !self.reset && !self.over && self.seen & SHUT_RECEIVE == 0
    }

    fn host_reads(&mut self) {
        let Some(host) = &mut self.host else { return };
        let mut bytes = vec![0; 1 << 16];
        loop {
            match host.read(&mut bytes) {
                Ok(0) => {
                    assert!(self.guest_ended || self.reset, "an end that nobody has made");
                    self.eof = true;
                    return;
                }
                Ok(len) => self.to_host.1.extend(&bytes[..len]),
                // Whether there is more, or the guest has left something unread.
                Err(_) => return,
            }
        }
    }

    fn make(&mut self, what: Move, guest: &mut Guest, step: usize) {
        let bytes = |len: usize| -> Vec<u8> { (0..len).map(|i| (step + i * 7 + i / 256) as u8).collect() };
        match what {
            Move::HostWrites(len) if !self.host_ended => {
                let data = bytes(len);
                let len = self.host.as_mut().and_then(|host| host.write(&data).ok()).unwrap_or(0);
                self.to_guest.0.extend(&data[..len]);
            }
            Move::GuestWrites(len) if self.may_send() => {
                let room = self.granted as usize - self.to_host.0.len();
                let data = bytes(len.min(room));
                self.to_host.0.extend(&data);
                guest.send(self.key, op::RW, &data);
            }
            Move::HostReads => self.host_reads(),
            Move::HostEndsItsHalf if !self.host_ended => {
                self.host_ended = true;
                // Fails when the guest has ended all.
                let _ = self.host.as_ref().map(|host| host.shutdown(Shutdown::Write));
            }
            Move::GuestEndsItsHalf if self.may_send() => {
                self.guest_ended = true;
                let end = Header { flags: SHUT_SEND.into(), ..Guest::header(self.key, op::SHUTDOWN) };
                guest.send_packet(&end, b"");
            }
            Move::HostIsGone if self.host.is_some() => {
                self.host_reads();
                self.torn = self.to_host.0 != self.to_host.1;
                (self.host, self.host_ended) = (None, true);
            }
            Move::GuestResets if !self.over && !self.reset => {
                (self.reset, self.late) = (true, true);
                guest.send(self.key, op::RST, b"");
            }
            _ => {}
        }
    }

    /// The guest gets a packet of this stream.
    fn hear(&mut self, header: &Header, data: &[u8]) {
        if self.late {
            return;
        }
        assert!(!self.over && !self.reset, "after the end: {header:?}");
        self.granted = header.fwd_cnt.get() + header.buf_alloc.get();
        match header.op.get() {
            op::RW => {
                assert_eq!(self.seen & SHUT_SEND, 0, "data after the end");
                self.to_guest.1.extend(data);
                assert!(
                    self.to_guest.1.len() - self.told <= GUEST_ALLOC as usize,
                    "more than there is room for"
                );
            }
            op::SHUTDOWN => {
                assert!(self.host_ended, "the host has ended nothing");
                self.seen |= header.flags.get();
            }
            op::RST => {
                let both = self.host_ended && self.guest_ended;
                assert!(self.host.is_none() || both, "nobody has ended both halves");
                self.over = true;
            }
            other => assert!([op::CREDIT_UPDATE, op::CREDIT_REQUEST].contains(&other), "{header:?}"),
        }
    }
}

fn guest_reads(guest: &mut Guest, models: &mut [Model]) {
    while let Some((header, data)) = guest.receive() {
        let key = Key { host: header.src_port.get(), guest: header.dst_port.get() };
        models.iter_mut().find(|model| model.key == key).expect("a stream").hear(&header, &data);
    }
    models.iter_mut().for_each(|model| model.late = false);
    for model in models.iter_mut().filter(|model| !model.over && !model.reset) {
        model.told = model.to_guest.1.len();
        let fwd_cnt = (model.told as u32).into();
        let update = Header { fwd_cnt, ..Guest::header(model.key, op::CREDIT_UPDATE) };
        guest.send_packet(&update, b"");
        if model.seen == BOTH {
            let end = Header { op: op::SHUTDOWN.into(), flags: BOTH.into(), ..update };
            guest.send_packet(&end, b"");
        }
    }
}

#[test]
fn an_end_comes_after_what_waits() {
    let mut guest = Guest::new();
    let (key, host) = guest.opened(5);
    let mut model = Model::new(key, host);
    // More than the socket itself takes.
    model.make(Move::GuestWrites(BUF_ALLOC as usize), &mut guest, 0);
    model.make(Move::GuestEndsItsHalf, &mut guest, 1);
    for _ in 0..60 {
        guest.driver.run();
        model.host_reads();
    }
    let (sent, got) = &model.to_host;
    assert!(model.eof && sent == got, "{} of {} bytes", got.len(), sent.len());
    assert_eq!(sent.len(), BUF_ALLOC as usize);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Three streams, two of which the host has opened.
    #[test]
    fn ends_come_last(moves in moves()) {
        let mut guest = Guest::new();
        let listener = UnixListener::bind(guest.path("s_80")).unwrap();
        let mut models: Vec<Model> = (0..2).map(|port| {
            let (key, host) = guest.opened(port);
            Model::new(key, host)
        }).collect();
        let key = Key { host: 80, guest: 1024 };
        guest.send(key, op::REQUEST, b"");
        guest.expect(op::RESPONSE);
        models.push(Model::new(key, listener.accept().unwrap().0));
        for (step, (which, what)) in moves.into_iter().enumerate() {
            models[which].make(what, &mut guest, step);
            if let Move::GuestReads | Move::GuestResets = what {
                guest_reads(&mut guest, &mut models);
            }
        }
        for _ in 0..60 {
            guest_reads(&mut guest, &mut models);
            models.iter_mut().for_each(Model::host_reads);
        }
        for (number, model) in models.iter().enumerate() {
            let ((wrote, read), (sent, got)) = (&model.to_guest, &model.to_host);
            prop_assert!(wrote.starts_with(read) && sent.starts_with(got), "stream {number} is garbled");
            let came = model.reset || model.torn || wrote == read;
            prop_assert!(came, "{} of {} bytes for the guest of stream {number}", read.len(), wrote.len());
            let went = model.reset || model.host.is_none() || sent == got;
            prop_assert!(went, "{} of {} bytes for the host of stream {number}", got.len(), sent.len());
            let told = model.seen & SHUT_SEND != 0 || model.over;
            prop_assert!(model.reset || told == model.host_ended, "the guest of stream {number} is not told");
            prop_assert!(model.over || model.reset || model.host.is_some(), "stream {number} is not over");
            let ended = model.guest_ended || model.reset;
            prop_assert!(model.host.is_none() || model.eof == ended, "the host of stream {number} is not told");
        }
    }
}
