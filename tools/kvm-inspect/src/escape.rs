// SPDX-License-Identifier: GPL-2.0

//! Text of others, for a terminal.
//!
//! A guest's memory, a VM's name and a process's arguments are of somebody's making. On a terminal
//! their control characters could move the cursor, hide text, or worse.

use std::{
    ffi::OsStr,
    fmt::{self, Display, Write},
    os::unix::ffi::OsStrExt,
};

/// Bytes that are formatted without anything that a terminal could take for a command.
///
/// What can be printed stays as it is, if it is UTF-8. Control characters, characters without a
/// width, those that change the direction of text, and unassigned ones become `\u{…}`, other bytes
/// `\xHH`, a backslash `\\`. So different bytes stay different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escaped<'a>(&'a [u8]);

impl<'a> Escaped<'a> {
    /// Creates it from text or bytes.
    #[must_use]
    pub fn new(text: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self(text.as_ref())
    }

    /// Creates it from a file's name, an argument and the like.
    #[must_use]
    pub fn of_os(text: &'a OsStr) -> Self {
        Self(text.as_bytes())
    }
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(self.0.len());
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    '"' | '\'' => text.push(char),
                    char => text.extend(char.escape_debug()),
                }
            }
            for byte in chunk.invalid() {
                write!(text, "\\x{byte:02x}")?;
            }
        }
        f.pad(&text)
    }
}

/// Returns a byte as one character: itself if it is printable ASCII, else a dot.
#[must_use]
pub fn dotted(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' {
        char::from(byte)
    } else {
        '.'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &[u8]) -> String {
        Escaped::new(text).to_string()
    }

    #[test]
    fn what_can_be_printed_stays() {
        let text = "a VM's \"name\" – größer 虚拟";
        assert_eq!(escaped(text.as_bytes()), text);
    }

    #[test]
    fn what_a_terminal_obeys_does_not() {
        assert_eq!(
            escaped(b"\x1b[2J\x07\r\n\t\0\x7f"),
            r"\u{1b}[2J\u{7}\r\n\t\0\u{7f}"
        );
        // The one-byte form of ESC [, in UTF-8.
        assert_eq!(escaped("\u{9b}2J".as_bytes()), r"\u{9b}2J");
        assert_eq!(
            escaped("a\u{202e}b\u{200b}\u{feff}".as_bytes()),
            r"a\u{202e}b\u{200b}\u{feff}"
        );
        assert_eq!(
            escaped("\u{2028}\u{e0041}".as_bytes()),
            r"\u{2028}\u{e0041}"
        );
    }

    #[test]
    fn what_is_no_text_has_its_bytes() {
        assert_eq!(escaped(b"a\xff\xc3(\x9b"), r"a\xff\xc3(\x9b");
        assert_ne!(escaped(b"\\xff"), escaped(b"\xff"));
    }

    #[test]
    fn no_byte_gets_through() {
        let all: Vec<u8> = (0..=255).collect();
        let text = escaped(&all);
        assert!(text.chars().all(|char| !char.is_control()), "{text:?}");
    }

    #[test]
    fn columns_can_be_padded() {
        assert_eq!(format!("{:<4}|", Escaped::new("ab")), "ab  |");
    }
}
