//! `wire`: both ends of conversations between a guest and the lab around it, by TCP, UDP, vsock or the Unix sockets
//! behind a vsock device. Each end checks every byte.
//!
//! ```text
//! wire serve ADDRESS…                   answers whoever connects
//! wire echo ADDRESS                     sends back to one who connects what comes, as it comes
//! wire wait ADDRESS                     until somebody connects
//! wire knock ADDRESS                    whether somebody listens
//! wire call ADDRESS round SIZE COUNT    so many messages there and back
//! wire call ADDRESS give BYTES          a stream there
//! wire call ADDRESS take BYTES          a stream back
//! wire call ADDRESS many COUNT          so many connections at the same time
//! wire call ADDRESS half                ends its half first, and hears the answer
//! wire call ADDRESS hold BYTES          a stream there that is read only once it waits while others go on
//! wire measure ADDRESS CASE…            what it takes: round:SIZE:COUNT, give:KIB or take:KIB, these unchecked
//! wire join TAP TAP                     brings what comes out of one tap into the other
//! wire tap NAME QUEUES COMMAND…         executes COMMAND, in which fd:* stands for so many descriptors of a tap
//! ```
//!
//! Addresses are `tcp:IP:PORT`, `udp:IP:PORT`, `vsock:CID:PORT`, `unix:PATH`, and for a port of a guest `unix:PATH:PORT`.

mod address;
mod hold;
mod join;
mod measure;
mod pattern;
mod tap;

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::process::ExitCode;
use std::thread;

use address::{Address, Duplex};
use anyhow::{Context, Result, bail, ensure};
use pattern::Pattern;

/// What a caller wants, in the first byte; eight bytes with a number follow.
const ECHO: u8 = b'e';
const GIVE: u8 = b'g';
const TAKE: u8 = b't';
/// As [`GIVE`] and [`TAKE`], of any bytes and as often as the caller asks: each time eight bytes say how many.
const SINK: u8 = b's';
const SOURCE: u8 = b'o';
/// As [`GIVE`], but read only after somebody else has asked for [`READ`].
const HOLD: u8 = b'h';
const READ: u8 = b'r';

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wire: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        ["serve", addresses @ ..] => serve(addresses),
        ["echo", address] => echo(address.parse::<Address>()?.listen()?()?, 4096),
        ["wait", address] => address.parse::<Address>()?.listen()?().map(drop),
        ["knock", address] => address.parse::<Address>()?.try_connect().map(drop),
        ["call", address, rest @ ..] => {
            let address: Address = address.parse()?;
            match rest {
                ["round", size, count] => round(&address, size.parse()?, count.parse()?),
                ["give", bytes] => give(&address, bytes.parse()?),
                ["take", bytes] => take(&address, bytes.parse()?),
                ["many", count] => many(&address, count.parse()?),
                ["half"] => half(&address),
                ["hold", bytes] => hold::hold(&address, bytes.parse()?),
                _ => bail!("unknown call: {}", rest.join(" ")),
            }?;
            println!("wire: {} ok", rest.join(" "));
            Ok(())
        }
        ["measure", address, cases @ ..] => {
            let address = address.parse()?;
            cases.iter().try_for_each(|case| {
                measure::run(&address, case).with_context(|| format!("{case} cannot be measured"))
            })
        }
        ["join", one, other] => join::join([one, other]),
        ["tap", name, queues, words @ ..] => tap::hand_over(name, queues.parse()?, words),
        _ => bail!(
            "serve ADDRESS…, echo ADDRESS, wait ADDRESS, knock ADDRESS, measure ADDRESS CASE…, join TAP TAP, \
             tap NAME QUEUES COMMAND…, \
             or call ADDRESS round|give|take|many|half|hold …"
        ),
    }
}

/// Answers on all addresses, for ever.
fn serve(addresses: &[&str]) -> Result<()> {
    let mut servers = Vec::new();
    for text in addresses {
        let address: Address = text.parse()?;
        if let Address::Udp(at) = &address {
            let socket = UdpSocket::bind(at).with_context(|| format!("cannot bind {text}"))?;
            servers.push(thread::spawn(move || echo_datagrams(&socket)));
        } else {
            let mut accept = address.listen().with_context(|| format!("cannot listen at {text}"))?;
            servers.push(thread::spawn(move || {
                loop {
                    let stream = accept()?;
                    thread::spawn(move || {
                        if let Err(error) = answer(stream) {
                            eprintln!("wire: {error:#}");
                        }
                    });
                }
            }));
        }
    }
    println!("wire: ready");
    servers.into_iter().try_for_each(|server| server.join().unwrap_or_else(|_| bail!("a server panicked")))
}

fn echo_datagrams(socket: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 65_536];
    loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..len], from)?;
    }
}

fn answer(mut stream: Box<dyn Duplex>) -> Result<()> {
    let mut request = [0; 9];
    stream.read_exact(&mut request).context("no request")?;
    let [what, number @ ..] = request;
    let number = u64::from_be_bytes(number);
    match what {
        ECHO => echo(stream, usize::try_from(number)?),
        GIVE => {
            Pattern::default().check(&mut stream, number)?;
            Ok(stream.write_all(b"!")?)
        }
        TAKE => Pattern::default().send(&mut stream, number),
        SINK => measure::sink(stream.as_mut()),
        SOURCE => measure::source(stream.as_mut()),
        HOLD => hold::read(stream.as_mut(), number),
        READ => {
            hold::begin();
            Ok(stream.write_all(b"!")?)
        }
        other => bail!("unknown request {other}"),
    }
}

/// Sends back what comes, up to `most` bytes at a time.
fn echo(mut stream: Box<dyn Duplex>, most: usize) -> Result<()> {
    let mut buffer = vec![0; most];
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return stream.end();
        }
        stream.write_all(&buffer[..len])?;
    }
}

fn ask(address: &Address, what: u8, number: u64) -> Result<Box<dyn Duplex>> {
    let mut stream = address.connect()?;
    let mut request = vec![what];
    request.extend(number.to_be_bytes());
    stream.write_all(&request)?;
    Ok(stream)
}

fn round(address: &Address, size: usize, count: usize) -> Result<()> {
    let message: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
    let mut back = vec![0; size];
    if let Address::Udp(at) = address {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(at)?;
        for number in 0..count {
            socket.send(&message)?;
            let len = socket.recv(&mut back).with_context(|| format!("datagram {number}"))?;
            ensure!(back[..len] == message, "datagram {number} came back changed");
        }
        return Ok(());
    }
    let mut stream = ask(address, ECHO, size as u64)?;
    for number in 0..count {
        stream.write_all(&message)?;
        stream.read_exact(&mut back).with_context(|| format!("message {number}"))?;
        ensure!(back == message, "message {number} came back changed");
    }
    Ok(())
}

fn give(address: &Address, bytes: u64) -> Result<()> {
    let mut stream = ask(address, GIVE, bytes)?;
    Pattern::default().send(&mut stream, bytes)?;
    stream.read_exact(&mut [0]).context("nobody says that all of it has come")
}

fn take(address: &Address, bytes: u64) -> Result<()> {
    Pattern::default().check(&mut ask(address, TAKE, bytes)?, bytes)
}

fn many(address: &Address, count: usize) -> Result<()> {
    let all = (0..count).map(|number| ask(address, ECHO, 64).with_context(|| format!("stream {number}")));
    let mut all = all.collect::<Result<Vec<_>>>()?;
    for turn in 0..3 {
        let text = |number: usize| format!("{number:010} {turn}");
        for (number, stream) in all.iter_mut().enumerate() {
            stream.write_all(text(number).as_bytes())?;
        }
        for (number, stream) in all.iter_mut().enumerate() {
            let mut back = vec![0; text(number).len()];
            stream.read_exact(&mut back).with_context(|| format!("stream {number}"))?;
            ensure!(back == text(number).as_bytes(), "stream {number} carries what is another's");
        }
    }
    Ok(())
}

fn half(address: &Address) -> Result<()> {
    let mut stream = ask(address, ECHO, 64)?;
    stream.write_all(b"last words")?;
    stream.end()?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    ensure!(back == b"last words", "{back:?} came back");
    Ok(())
}
