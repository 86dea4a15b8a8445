// SPDX-License-Identifier: GPL-2.0

//! Where the program writes.

use std::{
    env,
    fmt::{self, Display},
    io::{self, BufWriter, IsTerminal, Write},
};

use super::failure::Failure;
use crate::escape::Escaped;

/// Standard output and standard error.
pub(super) struct Terminal {
    out: BufWriter<Box<dyn Write>>,
    has_colours: bool,
    is_quiet: bool,
}

/// How text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A heading.
    Bold,
    /// All is well.
    Good,
    /// Something is missing.
    Bad,
}

/// Text with its look, if the terminal has looks.
pub(super) struct Painted<T>(Option<Look>, T);

impl Terminal {
    /// Creates it for this process. `is_quiet` leaves out headings, notes and progress.
    pub(super) fn new(is_quiet: bool) -> Self {
        let stdout = io::stdout();
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            has_colours: stdout.is_terminal() && !is_set("NO_COLOR") && !is_dumb,
            out: BufWriter::with_capacity(1 << 16, Box::new(stdout)),
            is_quiet,
        }
    }

    /// Returns where data goes.
    pub(super) fn out(&mut self) -> &mut impl Write {
        &mut self.out
    }

    /// Returns whether headings, notes and progress are left out.
    pub(super) const fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Returns whether progress may be shown.
    pub(super) fn shows_progress(&self) -> bool {
        !self.is_quiet && io::stderr().is_terminal()
    }

    /// Gives text a look, on a terminal.
    pub(super) fn paint<T: Display>(&self, look: Look, text: T) -> Painted<T> {
        Painted(self.has_colours.then_some(look), text)
    }

    /// Writes a heading.
    pub(super) fn heading(&mut self, text: &str) -> Result<(), Failure> {
        if self.is_quiet {
            return Ok(());
        }
        let text = self.paint(Look::Bold, text);
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Writes a note to standard error: what the user should know besides.
    pub(super) fn note(&self, text: impl Display) {
        if !self.is_quiet {
            // There is nobody else to tell.
            let _ = writeln!(
                io::stderr(),
                "kvm-inspect: {}",
                Escaped::new(&text.to_string())
            );
        }
    }

    /// Writes what is still to be written.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(look, text) = self;
        match look {
            None => text.fmt(f),
            Some(Look::Bold) => write!(f, "\x1b[1m{text}\x1b[0m"),
            Some(Look::Good) => write!(f, "\x1b[32m{text}\x1b[0m"),
            Some(Look::Bad) => write!(f, "\x1b[1;31m{text}\x1b[0m"),
        }
    }
}
