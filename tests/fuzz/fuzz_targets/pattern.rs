// SPDX-License-Identifier: GPL-2.0

//! Reading patterns, compared with a reader that is plainly right.

#![no_main]

use std::str;

use kvm_inspect_pure::scan::{
    Pattern,
    MAX_LEN, //
};
use libfuzzer_sys::fuzz_target;

/// The fuzzer need not find the prefixes.
const PREFIXES: [&str; 6] = ["text:", "itext:", "utf16:", "iutf16:", "hex:", ""];

fuzz_target!(|input: (u8, &[u8])| {
    let (prefix, body) = input;
    let prefix = PREFIXES[usize::from(prefix) % PREFIXES.len()];
    let spec = [prefix.as_bytes(), body].concat();
    let read = match Pattern::parse(&spec) {
        Ok(pattern) => {
            assert!(pattern.matches(pattern.value()));
            let bytes = pattern.value().iter().zip(pattern.mask());
            Some(bytes.map(|(value, mask)| (*value, *mask)).collect())
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    };
    assert_eq!(read, expected(&spec));
});

/// Returns the value and the mask of each byte, if this is a pattern.
fn expected(spec: &[u8]) -> Option<Vec<(u8, u8)>> {
    let colon = spec.iter().position(|byte| *byte == b':')?;
    let (kind, body) = (&spec[..colon], &spec[colon + 1..]);
    let bytes: Vec<(u8, u8)> = match kind {
        b"text" => {
            let bytes = characters(body.iter().map(|byte| char::from(*byte)))?;
            bytes.into_iter().map(|char| (byte(char), 0xff)).collect()
        }
        b"itext" => {
            let bytes = characters(body.iter().map(|byte| char::from(*byte)))?;
            let mask = |char: char| {
                if char.is_ascii_alphabetic() {
                    0xdf
                } else {
                    0xff
                }
            };
            let bytes = bytes.into_iter();
            bytes
                .map(|char| (byte(char) & mask(char), mask(char)))
                .collect()
        }
        b"utf16" => {
            let text: String = characters(str::from_utf8(body).ok()?.chars())?
                .into_iter()
                .collect();
            let bytes = text.encode_utf16().flat_map(u16::to_le_bytes);
            bytes.map(|byte| (byte, 0xff)).collect()
        }
        b"iutf16" => {
            let text = characters(str::from_utf8(body).ok()?.chars())?;
            let bytes = text.into_iter().flat_map(|char| {
                let is_letter = char.is_ascii_alphabetic();
                let units = char.encode_utf16(&mut [0; 2]).to_vec();
                let bytes = units.into_iter().flat_map(u16::to_le_bytes);
                bytes.enumerate().map(move |(index, byte)| {
                    let mask = if is_letter && index == 0 { 0xdf } else { 0xff };
                    (byte & mask, mask)
                })
            });
            bytes.collect()
        }
        b"hex" => {
            let words = body.split(|byte| *byte == b' ');
            let bytes = words.flat_map(|word| word.chunks(2));
            bytes.map(hex_byte).collect::<Option<_>>()?
        }
        _ => return None,
    };
    let is_any = |(_, mask): &(u8, u8)| *mask == 0;
    ((1..=MAX_LEN).contains(&bytes.len()) && !bytes.iter().all(is_any)).then_some(bytes)
}

/// Returns text without its escapes.
fn characters(text: impl Iterator<Item = char>) -> Option<Vec<char>> {
    let mut text = text;
    let mut characters = Vec::new();
    while let Some(char) = text.next() {
        characters.push(match char {
            '\\' => match text.next()? {
                '\\' => '\\',
                's' => ' ',
                'x' => {
                    let high = text.next()?.to_digit(16)?;
                    char::from_u32(high * 16 + text.next()?.to_digit(16)?)?
                }
                _ => return None,
            },
            char => char,
        });
    }
    Some(characters)
}

fn byte(char: char) -> u8 {
    u8::try_from(char).expect("it was made of a byte")
}

fn hex_byte(digits: &[u8]) -> Option<(u8, u8)> {
    let nibble = |digit: u8| match digit {
        b'?' => Some((0, 0)),
        digit => Some((u8::try_from(char::from(digit).to_digit(16)?).ok()?, 0xf)),
    };
    let &[high, low] = digits else {
        return None;
    };
    let ((high, high_mask), (low, low_mask)) = (nibble(high)?, nibble(low)?);
    Some(((high << 4) | low, (high_mask << 4) | low_mask))
}
