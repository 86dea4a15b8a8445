// SPDX-License-Identifier: GPL-2.0

//! Memory as people read it.

use std::io::{self, Write};

use crate::escape::dotted;

/// How many bytes are in a line.
const LINE: usize = 16;

/// Writes bytes as `hexdump -C` does: an address, 16 bytes in hex, and as text. Lines begin at
/// multiples of 16. Equal lines are left out, after a `*`.
#[derive(Debug)]
pub struct HexDump<W> {
    out: W,
    /// The last whole line, and whether a `*` stands for those after it.
    last: Option<[u8; LINE]>,
    is_skipping: bool,
    /// The address after the last byte.
    end: u64,
}

impl<W: Write> HexDump<W> {
    /// Creates it with where to write.
    pub const fn new(out: W) -> Self {
        Self {
            out,
            last: None,
            is_skipping: false,
            end: 0,
        }
    }

    /// Writes the bytes that begin at an address.
    ///
    /// # Errors
    ///
    /// They cannot be written.
    pub fn bytes(&mut self, mut address: u64, mut bytes: &[u8]) -> io::Result<()> {
        if address != self.end {
            self.finish()?;
        }
        while !bytes.is_empty() {
            let before = usize::try_from(address % 16).unwrap_or(0);
            let count = LINE.saturating_sub(before).min(bytes.len());
            let (line, rest) = bytes.split_at(count);
            self.line(address, before, line)?;
            address = address.wrapping_add(u64::try_from(count).unwrap_or(0));
            bytes = rest;
        }
        self.end = address;
        Ok(())
    }

    /// Writes a line that is no bytes.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.finish()?;
        writeln!(self.out, "{text}")
    }

    /// Writes where the bytes end, if lines were left out.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn finish(&mut self) -> io::Result<()> {
        self.last = None;
        if std::mem::take(&mut self.is_skipping) {
            writeln!(self.out, "{:012x}", self.end)?;
        }
        Ok(())
    }

    fn line(&mut self, address: u64, before: usize, bytes: &[u8]) -> io::Result<()> {
        let whole: Option<[u8; LINE]> = bytes.try_into().ok();
        if whole.is_some() && whole == self.last {
            if !std::mem::replace(&mut self.is_skipping, true) {
                writeln!(self.out, "*")?;
            }
            return Ok(());
        }
        self.last = whole;
        self.is_skipping = false;
        write_line(&mut self.out, address, before, bytes)
    }
}

/// Writes one line: up to 16 bytes after `before` places that are empty.
fn write_line(out: &mut impl Write, address: u64, before: usize, bytes: &[u8]) -> io::Result<()> {
    let places = std::iter::repeat_n(None, before).chain(bytes.iter().copied().map(Some));
    let places = places.chain(std::iter::repeat(None)).take(LINE);
    let (mut hex, mut text) = (String::new(), String::new());
    for (index, place) in places.enumerate() {
        if index == LINE / 2 {
            hex.push(' ');
        }
        if let Some(byte) = place {
            hex.push(' ');
            hex.push_str(&crate::hex::digits(&[byte]));
            text.push(dotted(byte));
        } else {
            hex.push_str("   ");
            text.push(' ');
        }
    }
    let text = text.trim_end_matches(' ');
    let padding = LINE.min(before.saturating_add(bytes.len()));
    writeln!(out, "{address:012x} {hex}  |{text:<padding$}|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(pieces: &[(u64, &[u8])]) -> String {
        let mut text = Vec::new();
        let mut dump = HexDump::new(&mut text);
        for (address, bytes) in pieces {
            dump.bytes(*address, bytes).expect("written");
        }
        dump.finish().expect("written");
        String::from_utf8(text).expect("UTF-8")
    }

    #[test]
    fn lines_begin_at_multiples_of_16() {
        let text = dump(&[(0x1000_000e, b"\x00ABC\x1b \xff")]);
        let expected = concat!(
            "00001000000e                                             00 41  |              .A|\n",
            "000010000010  42 43 1b 20 ff                                    |BC. .|\n",
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_whole_line_has_16_bytes() {
        let text = dump(&[(0, b"0123456789abcdef")]);
        let hex = "30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66";
        assert_eq!(text, format!("000000000000  {hex}  |0123456789abcdef|\n"));
    }

    #[test]
    fn equal_lines_are_left_out() {
        let text = dump(&[(0, &[0; 64]), (64, &[0; 16]), (80, &[1])]);
        let lines: Vec<&str> = text
            .lines()
            .map(|line| &line[..line.len().min(12)])
            .collect();
        assert_eq!(lines, ["000000000000", "*", "000000000050"]);
        let text = dump(&[(0, &[0; 64])]);
        assert!(text.ends_with("*\n000000000040\n"), "{text}");
        // What is elsewhere is shown.
        let text = dump(&[(0, &[0; 32]), (0x100, &[0; 16])]);
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn the_last_addresses_have_lines() {
        let text = dump(&[(u64::MAX - 15, &[7; 16])]);
        assert!(text.starts_with("fffffffffffffff0  07"), "{text}");
    }
}
