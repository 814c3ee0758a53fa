//! The terminal that the user sits at, in raw mode for as long as the VM runs.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};

/// The settings to go back to; here, so that a panic on any thread can do it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode of standard input, until it is dropped.
#[derive(Debug)]
pub struct Terminal(());

impl Terminal {
    /// Puts standard input into raw mode if it is a terminal and we are in its foreground.
    pub fn raw() -> io::Result<Option<Self>> {
        if !Self::is_foreground() {
            return Ok(None);
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self(())))
    }

    /// Whether standard input is a terminal that we may read: in the background that would stop us.
    #[must_use]
    pub fn is_foreground() -> bool {
        isatty(stdin()) && tcgetpgrp(stdin().as_fd()).is_ok_and(|foreground| foreground == getpgrp())
    }

    /// Goes back to the settings that were found, if they were changed.
    pub fn restore() {
        if let Some(before) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Fails only if the terminal is gone.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        Self::restore();
    }
}
