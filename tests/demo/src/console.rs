// SPDX-License-Identifier: GPL-2.0

//! The guest's console, with messages of its first process and its kernel.

use std::{
    io::{self, BufRead, BufReader},
    process::ChildStdout,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use crate::host::fail;

/// The time limit for any message: a backstop. An emulator in an emulator is slow, and the machine
/// may be busy.
const LIMIT: Duration = Duration::from_secs(1800);

/// The console, which a thread reads all the time.
pub struct Console {
    coming: Receiver<String>,
    seen: Vec<String>,
}

impl Console {
    /// Starts to read the console of a new guest.
    #[must_use]
    pub fn follow(console: ChildStdout) -> Self {
        let (sender, coming) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            coming,
            seen: Vec::new(),
        }
    }

    /// Waits for the next line with `text` in it.
    ///
    /// # Errors
    ///
    /// None comes.
    pub fn wait_for(&mut self, text: &str) -> io::Result<String> {
        let begin = Instant::now();
        let remaining = || LIMIT.saturating_sub(begin.elapsed());
        while let Ok(line) = self.coming.recv_timeout(remaining()) {
            self.seen.push(line.clone());
            if line.contains(text) {
                return Ok(line);
            }
        }
        let last = self.seen.last().map_or("none", String::as_str);
        fail(format!(
            "the guest does not say {text}; its last words: {last}"
        ))
    }

    /// Waits until the guest has gone on: for its next sign of life.
    ///
    /// # Errors
    ///
    /// None comes.
    pub fn goes_on(&mut self) -> io::Result<()> {
        self.skip();
        self.wait_for("beat=").map(drop)
    }

    /// Skips what has been printed up to now.
    pub fn skip(&mut self) {
        self.seen.extend(self.coming.try_iter());
    }

    /// Returns all lines that were waited for or skipped.
    #[must_use]
    pub fn seen(&self) -> &[String] {
        &self.seen
    }
}
