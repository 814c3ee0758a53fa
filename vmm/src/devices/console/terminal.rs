//! The terminal that the user sits at, in raw mode for as long as the VM runs.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

/// The settings to go back to, and those of raw mode; here, so that a panic on any thread can restore them.
static SETTINGS: Mutex<Option<Settings>> = Mutex::new(None);

struct Settings {
    before: Termios,
    raw: Termios,
}

/// Makes a panic on any thread give the terminal back, say so in one line, and end the process with `code`.
pub fn restore_on_panic(code: u8) {
    std::panic::set_hook(Box::new(move |panic| {
        Terminal::restore();
        // Nobody is left to tell if this fails.
        let _ = writeln!(io::stderr(), "jiffy: internal error, please report it: {panic}");
        std::process::exit(code.into());
    }));
}

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
        *settings() = Some(Settings { before, raw: raw.clone() });
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self(())))
    }

    /// Columns and rows of the terminal that standard input is, if it is one.
    #[must_use]
    pub fn size() -> Option<(u16, u16)> {
        tcgetwinsize(stdin()).ok().map(|size| (size.ws_col, size.ws_row))
    }

    /// Gives the terminal back for as long as the process is stopped.
    pub fn leave() {
        Self::set(|settings| &settings.before);
    }

    /// Raw mode again after a stop, if there was one before: whoever had the terminal meanwhile has changed it.
    pub fn reenter() {
        Self::set(|settings| &settings.raw);
    }

    fn set(which: fn(&Settings) -> &Termios) {
        if let Some(settings) = settings().as_ref().filter(|_| Self::is_foreground()) {
            // Fails only if the terminal is gone.
            let _ = tcsetattr(stdin(), OptionalActions::Now, which(settings));
        }
    }

    /// Whether standard input is a terminal that we may read: in the background that would stop us.
    #[must_use]
    pub fn is_foreground() -> bool {
        isatty(stdin()) && tcgetpgrp(stdin().as_fd()).is_ok_and(|foreground| foreground == getpgrp())
    }

    /// Goes back to the settings that were found, if they were changed.
    pub fn restore() {
        if let Some(Settings { before, .. }) = settings().take() {
            // Fails only if the terminal is gone.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
        }
    }
}

fn settings() -> MutexGuard<'static, Option<Settings>> {
    SETTINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        Self::restore();
    }
}
