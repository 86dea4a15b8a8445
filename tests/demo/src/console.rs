// SPDX-License-Identifier: GPL-2.0

//! What the guest says on its console: its first process, and its kernel.

use std::{
    io::{self, BufRead, BufReader},
    process::ChildStdout,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use crate::host::fail;

/// How long the guest may take for anything, in an emulator in an emulator, on a machine that may
/// be slow and busy: no more than a backstop.
const PATIENCE: Duration = Duration::from_secs(1800);

/// The guest's console, which is followed all the time.
pub struct Console {
    coming: Receiver<String>,
    seen: Vec<String>,
}

impl Console {
    /// Follows the console of a guest that was just started.
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

    /// The next line with `text` in it.
    ///
    /// # Errors
    ///
    /// None comes.
    pub fn wait_for(&mut self, text: &str) -> io::Result<String> {
        let begin = Instant::now();
        let remaining = || PATIENCE.saturating_sub(begin.elapsed());
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

    /// Passes by what has been said up to now.
    pub fn pass_by(&mut self) {
        self.seen.extend(self.coming.try_iter());
    }

    /// All that was waited for or passed by.
    #[must_use]
    pub fn seen(&self) -> &[String] {
        &self.seen
    }
}
