//! A web server: answers as many requests as the command line says (`requests=N`), at the address that it says
//! (`ip=A.B.C.D/N`), and ends.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry's name is fixed")]

use smoltcp::iface::{Config, Interface, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};
use unikernel::machine::micros;
use unikernel::net::Net;
use unikernel::start::Start;
use unikernel::{memory, say};

unikernel::unikernel!(main);

const PORT: u16 = 80;
const BUFFER: usize = 4096;
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 23\r\nConnection: close\r\n\r\n\
    hello from a unikernel\n";

fn main(start: Start) {
    let ip: Ipv4Cidr = start.word("ip").and_then(|word| word.parse().ok()).expect("ip=A.B.C.D/N");
    let mut left: u32 = start.word("requests").map_or(1, |word| word.parse().expect("requests=N"));
    let mut net = Net::find().expect("there is no network device");
    let now = || Instant::from_micros(micros());
    let address = EthernetAddress(net.mac());
    let mut interface = Interface::new(Config::new(address.into()), &mut net, now());
    interface.update_ip_addrs(|all| all.push(IpCidr::Ipv4(ip)).expect("room for an address"));
    let buffer = || SocketBuffer::new(memory::bytes(BUFFER));
    let mut storage = [SocketStorage::EMPTY];
    let mut sockets = SocketSet::new(&mut storage[..]);
    let handle = sockets.add(Socket::new(buffer(), buffer()));
    say!("unikernel: listens at {ip}, port {PORT}");
    while left > 0 {
        interface.poll(now(), &mut net, &mut sockets);
        let socket = sockets.get_mut::<Socket<'_>>(handle);
        if !socket.is_open() {
            socket.listen(PORT).expect("a port to listen at");
        }
        let asked = socket.can_recv()
            && socket.recv(|bytes| {
                let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
                (end.map_or(0, |_| bytes.len()), end.is_some())
            }) == Ok(true);
        if asked {
            socket.send_slice(ANSWER).expect("room for an answer");
            socket.close();
            left -= 1;
            say!("unikernel: answered");
        }
    }
    // Until the other side has all of it and knows that it is the end; not for ever.
    let end = now() + Duration::from_secs(5);
    while sockets.get::<Socket<'_>>(handle).is_active() && now() < end {
        interface.poll(now(), &mut net, &mut sockets);
    }
    say!("unikernel: pass");
}
