//! Halves of streams that end, and halves that wait for room.

use super::*;

#[test]
fn each_half_is_closed_by_itself() {
    let mut guest = Guest::new();
    let (key, mut stream) = guest.opened(5);
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive().unwrap().1, b"last words");
    assert_eq!(guest.expect(op::SHUTDOWN).flags.get(), SHUT_SEND);
    guest.send(key, op::RW, b"answer");
    let end = Header { flags: SHUT_SEND.into(), ..Guest::header(key, op::SHUTDOWN) };
    guest.send_packet(&end, b"");
    stream.set_nonblocking(false).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    drop(stream);
    assert_eq!(guest.expect(op::SHUTDOWN).flags.get(), SHUT_SEND | SHUT_RECEIVE);
    let end = Header { flags: (SHUT_SEND | SHUT_RECEIVE).into(), ..end };
    guest.send_packet(&end, b"");
    guest.expect(op::RST);
}

#[test]
fn a_guest_that_receives_no_more() {
    let mut guest = Guest::new();
    let (key, mut stream) = guest.opened(5);
    let end = Header { flags: SHUT_RECEIVE.into(), ..Guest::header(key, op::SHUTDOWN) };
    guest.send_packet(&end, b"");
    assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.send(key, op::RW, b"it sends");
    assert_eq!(said(&mut stream), b"it sends");
}

#[test]
fn a_host_program_that_is_gone() {
    let mut guest = Guest::new();
    let (key, stream) = guest.opened(5);
    drop(stream);
    assert_eq!(guest.expect(op::SHUTDOWN).flags.get(), SHUT_SEND | SHUT_RECEIVE);
    guest.send(key, op::RW, b"was on its way");
    let end = Header { flags: (SHUT_SEND | SHUT_RECEIVE).into(), ..Guest::header(key, op::SHUTDOWN) };
    guest.send_packet(&end, b"");
    guest.expect(op::RST);
}

#[test]
fn a_slow_reader_holds_the_guest_back() {
    let mut guest = Guest::new();
    let (key, mut stream) = guest.opened(5);
    let packet = vec![7; 64 << 10];
    let (mut sent, mut granted, mut read) = (0u32, BUF_ALLOC, 0);
    // As much as the guest may send: the socket's own buffers and what we hold.
    while granted - sent >= packet.len() as u32 {
        guest.send(key, op::RW, &packet);
        sent += packet.len() as u32;
        while let Some((header, _)) = guest.receive() {
            assert_eq!(header.op.get(), op::CREDIT_UPDATE);
            granted = header.fwd_cnt.get() + header.buf_alloc.get();
        }
    }
    assert!(sent >= BUF_ALLOC);
    while read < sent as usize {
        let bytes = said(&mut stream);
        assert!(bytes.iter().all(|&byte| byte == 7));
        read += bytes.len();
        guest.driver.run();
    }
    let mut freed = 0;
    while let Some((header, _)) = guest.receive() {
        freed = header.fwd_cnt.get();
    }
    assert!(sent - freed < BUF_ALLOC / 2, "{freed} of {sent}");
    guest.send(key, op::RW, &packet[..100]);
    let beyond = vec![0; BUF_ALLOC as usize + 1];
    guest.send(key, op::RW, &beyond);
    guest.expect(op::RST);
}

#[test]
fn a_guest_without_room_holds_the_host_back() {
    let mut guest = Guest::new();
    let (key, mut stream) = guest.opened(5);
    let data: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let (mut written, mut got, mut read, mut asked) = (0, Vec::new(), 0, false);
    while got.len() < data.len() {
        match stream.write(&data[written..]) {
            Ok(len) => written += len,
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        while let Some((header, bytes)) = guest.receive() {
            asked |= header.op.get() == op::CREDIT_REQUEST;
            got.extend(bytes);
            assert!(got.len() - read <= GUEST_ALLOC as usize, "more than there was room for");
        }
        read = got.len();
        let update = Header { fwd_cnt: (read as u32).into(), ..Guest::header(key, op::CREDIT_UPDATE) };
        guest.send_packet(&update, b"");
    }
    assert!(asked && got == data);
}
