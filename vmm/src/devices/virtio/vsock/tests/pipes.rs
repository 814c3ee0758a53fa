//! Streams against a model: whatever is written at one end comes out at the other.

use std::io::Write;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::{BUF_ALLOC, Guest, Header, Key, op, said};

/// What the model of a stream does next.
#[derive(Clone, Copy, Debug)]
enum Move {
    HostWrites(usize),
    GuestWrites(usize),
    HostReads,
    GuestReads,
}

fn moves() -> impl Strategy<Value = Vec<(usize, Move)>> {
    let size = prop_oneof![1usize..200, 1usize..9000, 30_000usize..70_000];
    let one = prop_oneof![
        size.clone().prop_map(Move::HostWrites),
        size.prop_map(Move::GuestWrites),
        Just(Move::HostReads),
        Just(Move::GuestReads),
    ];
    prop::collection::vec((0usize..3, one), 1..60)
}

/// A stream as both of its ends see it: what was written into one and has come out of the other.
struct Model {
    key: Key,
    stream: UnixStream,
    to_guest: (Vec<u8>, Vec<u8>),
    to_host: (Vec<u8>, Vec<u8>),
    granted: u32,
}

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (seed + i * 7 + i / 256) as u8).collect()
}

impl Model {
    fn guest_may_send(&self) -> usize {
        self.granted as usize - self.to_host.0.len()
    }
}

fn guest_reads(guest: &mut Guest, models: &mut [Model]) {
    while let Some((header, data)) = guest.receive() {
        let model = models.iter_mut().find(|model| model.key.host == header.src_port.get()).unwrap();
        assert!([op::RW, op::CREDIT_UPDATE, op::CREDIT_REQUEST].contains(&header.op.get()), "{header:?}");
        model.granted = header.fwd_cnt.get() + header.buf_alloc.get();
        model.to_guest.1.extend(data);
    }
    for model in models {
        let read = (model.to_guest.1.len() as u32).into();
        let update = Header { fwd_cnt: read, ..Guest::header(model.key, op::CREDIT_UPDATE) };
        guest.send_packet(&update, b"");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Whatever is written at one end of some streams, in whatever order, comes out at the other one.
    #[test]
    fn streams_are_pipes(moves in moves()) {
        let mut guest = Guest::new();
        let mut models: Vec<_> = (0..3).map(|port| {
            let (key, stream) = guest.opened(port);
            Model { key, stream, to_guest: Default::default(), to_host: Default::default(), granted: BUF_ALLOC }
        }).collect();
        for (step, (which, what)) in moves.into_iter().enumerate() {
            let model = &mut models[which];
            match what {
                Move::HostWrites(len) => {
                    let data = bytes(step, len);
                    let len = model.stream.write(&data).unwrap_or(0);
                    model.to_guest.0.extend(&data[..len]);
                }
                Move::GuestWrites(len) => {
                    let data = bytes(step, len.min(model.guest_may_send()));
                    model.to_host.0.extend(&data);
                    guest.send(model.key, op::RW, &data);
                }
                Move::HostReads => model.to_host.1.extend(said(&mut model.stream)),
                Move::GuestReads => guest_reads(&mut guest, &mut models),
            }
        }
        for _ in 0..40 {
            guest_reads(&mut guest, &mut models);
            for model in &mut models {
                model.to_host.1.extend(said(&mut model.stream));
            }
        }
        for model in &models {
            prop_assert!(model.to_guest.0 == model.to_guest.1, "{} and {}", model.to_guest.0.len(), model.to_guest.1.len());
            prop_assert!(model.to_host.0 == model.to_host.1, "{} and {}", model.to_host.0.len(), model.to_host.1.len());
        }
    }
}
