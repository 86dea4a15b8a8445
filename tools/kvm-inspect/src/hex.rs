// SPDX-License-Identifier: GPL-2.0

//! Bytes as hex digits.

use std::fmt::Write;

/// Returns two digits for each byte.
#[must_use]
pub fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Returns the bytes that an even number of hex digits denotes.
#[must_use]
pub fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| match pair {
        [high, low] => {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            u8::try_from((digit(*high)? << 4) | digit(*low)?).ok()
        }
        _ => None,
    };
    pairs.map(byte).collect()
}

/// Returns a pattern, in the module's notation, for exactly these bytes.
#[must_use]
pub fn pattern(bytes: &[u8]) -> String {
    format!("hex:{}", digits(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_bytes_are_each_others_inverse() {
        assert_eq!(digits(&[0, 0x5a, 0xff]), "005aff");
        assert_eq!(bytes("005aFF"), Some(vec![0, 0x5a, 0xff]));
        assert_eq!(bytes(""), Some(Vec::new()));
    }

    #[test]
    fn other_text_denotes_no_bytes() {
        for text in ["0", "0g", "+1", "00 ", "é"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
