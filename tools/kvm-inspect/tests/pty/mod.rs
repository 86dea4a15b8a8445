// SPDX-License-Identifier: GPL-2.0

//! A terminal for tests: what a program writes to it, and what is seen then.

#![allow(dead_code, reason = "each test uses some of it")]

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    process::Stdio,
};

use rustix::{
    ffi::CString,
    io::Errno,
    pty::{grantpt, openpt, ptsname, unlockpt, OpenptFlags},
    termios::{tcgetattr, tcsetwinsize, Winsize},
};

/// A terminal of 80 columns.
pub(crate) struct Pty {
    user: File,
    name: CString,
}

impl Pty {
    pub(crate) fn new() -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&user).expect("granted");
        unlockpt(&user).expect("unlocked");
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&user, size).expect("a size");
        let name = ptsname(&user, Vec::new()).expect("a name");
        let user = File::from(user);
        Self { user, name }
    }

    /// Returns what a program gets of it. All of them must have been closed before [`Self::rest`]
    /// returns.
    pub(crate) fn stdio(&self) -> Stdio {
        // The kernel gives it to a session that has none, and this is no such session.
        let path = Path::new(std::ffi::OsStr::from_bytes(self.name.as_bytes()));
        let terminal = OpenOptions::new().read(true).write(true).open(path);
        OwnedFd::from(terminal.expect("opened")).into()
    }

    /// Returns what programs write until `until` is in it, or until all have ended.
    pub(crate) fn read_until(&mut self, until: &str) -> String {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.user.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => text.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // So Linux says that nobody has it open.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => break,
                Err(error) => panic!("{error}"),
            }
            if !until.is_empty() && String::from_utf8_lossy(&text).contains(until) {
                break;
            }
        }
        String::from_utf8(text).expect("UTF-8")
    }

    /// Returns all that programs write until they have ended.
    pub(crate) fn rest(&mut self) -> String {
        self.read_until("")
    }

    /// Types on the keyboard.
    pub(crate) fn type_in(&mut self, keys: &[u8]) {
        self.user.write_all(keys).expect("typed");
    }

    /// Returns how it is set: whether it echoes, and so on.
    pub(crate) fn settings(&self) -> String {
        format!("{:?}", tcgetattr(&self.user).expect("settings"))
    }
}

/// Returns the lines that are seen after this was written.
pub(crate) fn seen(written: &str) -> Vec<String> {
    let mut lines = vec![Vec::new()];
    let (mut row, mut column) = (0_usize, 0);
    let mut chars = written.chars();
    while let Some(char) = chars.next() {
        match char {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(Vec::new());
                }
            }
            '\x1b' => {
                assert_eq!(chars.next(), Some('['), "{written:?}");
                let sequence: String = chars
                    .by_ref()
                    .take_while(|char| !char.is_ascii_alphabetic())
                    .collect();
                // The letter at the end is taken, too.
                match sequence.as_str() {
                    "2" => lines[row].clear(),
                    "1" => row = row.saturating_sub(1),
                    "" => lines[row].truncate(column),
                    _ => panic!("{written:?}"),
                }
            }
            char => {
                let line = &mut lines[row];
                if line.len() <= column {
                    line.resize(column + 1, ' ');
                }
                line[column] = char;
                column += 1;
            }
        }
    }
    let lines = lines.into_iter().map(String::from_iter);
    lines.map(|line| line.trim_end().to_owned()).collect()
}
