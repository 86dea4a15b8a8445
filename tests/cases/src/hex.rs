// SPDX-License-Identifier: GPL-2.0

//! Bytes as hex digits.

use std::fmt::Write;

/// Two digits for each byte.
#[must_use]
pub fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}
