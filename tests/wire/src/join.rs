//! Two taps joined by a cable.

use std::fs::File;
use std::io::{Read, Write};
use std::thread;

use anyhow::{Context, Result};

use crate::tap;

/// The longest frame with its header.
const LONGEST: usize = 10 + 14 + 65535;

/// What comes out of one goes into the other, segmented or not, for ever.
pub fn join(names: [&str; 2]) -> Result<()> {
    let open = |name| {
        let tap = tap::open(name, false).with_context(|| format!("cannot attach to {name}"))?;
        tap::take_segments(&tap)?;
        Ok::<File, anyhow::Error>(tap)
    };
    let [one, other] = [open(names[0])?, open(names[1])?];
    thread::scope(|scope| {
        scope.spawn(|| carry(&one, &other));
        carry(&other, &one)
    })
}

fn carry(mut from: &File, mut to: &File) -> Result<()> {
    let mut frame = vec![0; LONGEST];
    loop {
        let len = from.read(&mut frame).context("a tap cannot be read")?;
        // An interface that is not up yet takes none.
        let _ = to.write(&frame[..len]);
    }
}
