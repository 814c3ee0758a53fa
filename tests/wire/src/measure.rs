//! What conversations take. Bytes are not looked at, since that would be measured as well.

use std::io::{ErrorKind, Read, Write};

use anyhow::{Context, Result, bail, ensure};

use crate::address::{Address, Duplex};
use crate::{ECHO, SINK, SOURCE, ask};

/// Bytes that go into one call of a stream's.
const PIECE: usize = 64 << 10;

/// Measures a case.
pub fn run(address: &Address, case: &str) -> Result<()> {
    let parts: Vec<&str> = case.split(':').collect();
    match parts[..] {
        ["round", size, count] => {
            let size: usize = size.parse()?;
            let (message, mut back) = (vec![7; size], vec![0; size]);
            let mut stream = ask(address, ECHO, size as u64)?;
            tools::measure(case, count.parse()?, |count| {
                for _ in 0..count {
                    stream.write_all(&message)?;
                    stream.read_exact(&mut back)?;
                }
                Ok(())
            })
        }
        ["give", count] => {
            let mut stream = ask(address, SINK, 0)?;
            tools::measure(case, count.parse()?, |kib| {
                let bytes = (kib as u64) << 10;
                stream.write_all(&bytes.to_be_bytes())?;
                pour(stream.as_mut(), bytes)?;
                stream.read_exact(&mut [0]).context("nobody says that all of it has come")
            })
        }
        ["take", count] => {
            let mut stream = ask(address, SOURCE, 0)?;
            tools::measure(case, count.parse()?, |kib| {
                let bytes = (kib as u64) << 10;
                stream.write_all(&bytes.to_be_bytes())?;
                drain(stream.as_mut(), bytes)
            })
        }
        _ => bail!("it is none of round:SIZE:COUNT, give:KIB, take:KIB"),
    }
}

/// Takes as many bytes as the caller says it gives, and tells it that they have come; until it ends.
pub fn sink(stream: &mut dyn Duplex) -> Result<()> {
    while let Some(bytes) = next(stream)? {
        drain(stream, bytes)?;
        stream.write_all(b"!")?;
    }
    Ok(())
}

/// Gives as many bytes as the caller asks for; until it ends.
pub fn source(stream: &mut dyn Duplex) -> Result<()> {
    while let Some(bytes) = next(stream)? {
        pour(stream, bytes)?;
    }
    Ok(())
}

/// A number; none at the stream's end.
fn next(stream: &mut dyn Duplex) -> Result<Option<u64>> {
    let mut number = [0; 8];
    match stream.read_exact(&mut number) {
        Ok(()) => Ok(Some(u64::from_be_bytes(number))),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn pour(to: &mut dyn Duplex, mut bytes: u64) -> Result<()> {
    let piece = vec![7; PIECE];
    while bytes > 0 {
        let len = bytes.min(PIECE as u64);
        to.write_all(&piece[..len as usize])?;
        bytes -= len;
    }
    Ok(())
}

fn drain(from: &mut dyn Duplex, mut bytes: u64) -> Result<()> {
    let mut piece = vec![0; PIECE];
    while bytes > 0 {
        let len = from.read(&mut piece[..bytes.min(PIECE as u64) as usize])?;
        ensure!(len > 0, "the stream ends with {bytes} bytes to come");
        bytes -= len as u64;
    }
    Ok(())
}
