// SPDX-License-Identifier: GPL-2.0

//! Records of the kernel's log.

use std::fmt::Write;

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number since boot.
    pub sequence: u64,
    /// When it was made, in nanoseconds since boot (`local_clock`).
    pub timestamp: u64,
    /// How urgent it is, from 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Who made it, as of syslog: 0 is the kernel.
    pub facility: u8,
    /// What made it.
    pub caller: Caller,
    /// Its text, which may have any bytes. Lines are separated by `\n`.
    pub text: Vec<u8>,
}

/// What made a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The thread with this number.
    Thread(u32),
    /// An interrupt on the CPU with this number.
    Cpu(u32),
}

impl Caller {
    /// Returns what `caller_id` means (`printk_caller_id`).
    pub(super) fn new(id: u32) -> Self {
        match id.checked_sub(1 << 31) {
            Some(cpu) => Self::Cpu(cpu),
            None => Self::Thread(id),
        }
    }
}

impl Record {
    /// Returns its lines as `dmesg` prints them, `[    1.234567] text`, fit for a terminal: control
    /// characters other than tabs, characters that change the direction of text, and bytes that
    /// are not UTF-8 are escaped as `\x1b` or `\u{202e}`.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let microseconds = self.timestamp / 1000;
        let (seconds, rest) = (microseconds / 1_000_000, microseconds % 1_000_000);
        self.text.split(|byte| *byte == b'\n').map(move |line| {
            let mut text = format!("[{seconds:5}.{rest:06}] ");
            escape(line, &mut text);
            text
        })
    }
}

/// Appends bytes as text that is fit for a terminal.
fn escape(bytes: &[u8], text: &mut String) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            // Writing to a string cannot fail.
            let _ = match c {
                '\t' => text.write_char(c),
                '\0'..='\x7f' if c.is_control() => write!(text, "\\x{:02x}", u32::from(c)),
                _ if c.is_control() || is_direction(c) => write!(text, "{}", c.escape_unicode()),
                _ => text.write_char(c),
            };
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
}

/// Returns whether a character changes the direction of the text around it, or ends a line.
fn is_direction(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
    ) || matches!(c, '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(timestamp: u64, text: &[u8]) -> Vec<String> {
        let record = Record {
            sequence: 1,
            timestamp,
            level: 6,
            facility: 0,
            caller: Caller::Thread(1),
            text: text.to_vec(),
        };
        record.lines().collect()
    }

    #[test]
    fn lines_are_like_those_of_dmesg() {
        assert_eq!(
            lines(1_234_567_999, b"two\nlines"),
            ["[    1.234567] two", "[    1.234567] lines"]
        );
        assert_eq!(lines(0, b""), ["[    0.000000] "]);
        assert_eq!(lines(u64::MAX, b"a\tb"), ["[18446744073.709551] a\tb"]);
    }

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        let all: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
        let printed = lines(0, &all).concat();
        assert!(
            printed.chars().all(|c| c == '\t' || !c.is_control()),
            "{printed}"
        );
        let escaped = r"[    0.000000] \x1b[31m\u{9b}\u{202e}é\xff";
        assert_eq!(
            lines(0, b"\x1b[31m\xc2\x9b\xe2\x80\xae\xc3\xa9\xff"),
            [escaped]
        );
    }

    #[test]
    fn the_caller_is_a_thread_or_a_cpu() {
        assert_eq!(Caller::new(7), Caller::Thread(7));
        assert_eq!(Caller::new(0x8000_0003), Caller::Cpu(3));
    }
}
