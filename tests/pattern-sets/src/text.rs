// SPDX-License-Identifier: GPL-2.0

//! Patterns of text. Real memory has none of them often.

use std::fmt::Write as _;

use crate::random::Random;

const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const DIGIT: &[u8] = b"0123456789";
const HEX: &[u8] = b"0123456789abcdef";
const ANY: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Returns a key, an address, a header, a name in UTF-16, or code, in turns.
pub(super) fn long(index: usize, random: &mut Random) -> String {
    match index % 8 {
        0 => text(&format!("AKIA{}", random.string(UPPER, 16))),
        1 => {
            let (host, path) = (random.string(LOWER, 9), random.string(LOWER, 6));
            text(&format!("https://{host}.example/{path}.php"))
        }
        2 => text(&format!("password={}", random.string(LOWER, 8))),
        3 => text(&format!("ghp_{}", random.string(LOWER, 30))),
        4 => {
            let (head, tail) = (random.string(UPPER, 1), random.string(LOWER, 8));
            format!("utf16:Se{head}{tail}Privilege")
        }
        5 => text(&format!(
            "Mutex_{}-{}",
            random.string(HEX, 8),
            random.string(HEX, 4)
        )),
        6 => {
            let mut code = String::from("hex:48895c2408574883ec");
            for _ in 0..7 {
                let _ = write!(code, "{:02x}", random.byte());
            }
            code
        }
        _ => text(&format!(
            "{} ransom {}",
            random.string(LOWER, 5),
            random.string(HEX, 8)
        )),
    }
}

/// Returns text of 4 to 8 bytes: a key, a command, a name, in turns.
pub(super) fn short(index: usize, random: &mut Random) -> String {
    text(&short_name(index, 4 + random.below(5), random))
}

/// Returns text of 8 to 12 bytes: a file, a command line, a mutex, a key, in turns.
pub(super) fn middle(index: usize, random: &mut Random) -> String {
    text(&name(index, 8 + random.below(5), random))
}

/// Returns such text of 8 to 16 bytes, in which letters may be of either case.
pub(super) fn either_case(index: usize, random: &mut Random) -> String {
    let name = name(index, 8 + random.below(9), random);
    format!("i{}", text(&name.to_lowercase()))
}

/// Returns a name of 3 to 6 characters, in UTF-16.
pub(super) fn wide(index: usize, random: &mut Random) -> String {
    let len = 3 + random.below(4);
    let name = short_name(index, len, random);
    text(&name).replacen("text", "utf16", 1)
}

/// Returns a name of 4 to 10 characters, in UTF-16, in which letters may be of either case.
pub(super) fn wide_either_case(index: usize, random: &mut Random) -> String {
    let len = 4 + random.below(7);
    let name = if len < 8 {
        short_name(index, len, random)
    } else {
        name(index, len, random)
    };
    text(&name.to_lowercase()).replacen("text", "iutf16", 1)
}

/// Returns text of 12 to 20 bytes that begins with the same 8 bytes.
pub(super) fn shared_prefix(random: &mut Random) -> String {
    let len = 4 + random.below(9);
    text(&format!("https://{}", word(len, random)))
}

/// Returns a name of at most 8 characters. What has but four letters would be part of many words.
fn short_name(index: usize, len: usize, random: &mut Random) -> String {
    match index % 6 {
        0 => random.string(ANY, len),
        1 if len >= 6 => word(len, random),
        1 | 2 => format!("{}{}", word(len - 1, random), random.string(DIGIT, 1)),
        3 => {
            let mark = random.one(&["-", "/", "%", "$", "\\", "@"]);
            format!("{mark}{}", random.string(LOWER, len - 1))
        }
        4 => format!(
            "{}_{}",
            random.string(UPPER, 2),
            random.string(UPPER, len - 3)
        )
        .chars()
        .take(len)
        .collect(),
        _ => capitalized(&format!(
            "{}{}",
            word(len - 2, random),
            random.string(ANY, 2)
        )),
    }
}

/// Returns a name of 8 characters or more.
fn name(index: usize, len: usize, random: &mut Random) -> String {
    match index % 6 {
        0 => random.string(ANY, len),
        1 => {
            let end = random.one(&[".exe", ".dll", ".tmp", ".bat", ".ps1"]);
            format!("{}{end}", word(len - 4, random))
        }
        2 => {
            let (first, second) = (word(len / 2, random), word(len - len / 2, random));
            format!("{}{}", capitalized(&first), capitalized(&second))
        }
        3 => {
            let mark = random.one(&["-", "/", " "]);
            let (first, second) = (word(3, random), word(len - 5, random));
            format!("{first} {mark}{second}")
        }
        4 => format!("{}_{}", word(len - 5, random), random.string(HEX, 4)),
        _ => word(len, random),
    }
}

/// Returns a word as it can be said, though most likely in no language.
fn word(len: usize, random: &mut Random) -> String {
    let first = random.below(2);
    (first..first + len)
        .map(|at| {
            if at % 2 == 0 {
                random.string(b"bcdfghjklmnpqrstvwxz", 1)
            } else {
                random.string(b"aeiouy", 1)
            }
        })
        .collect()
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().map(|char| char.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

fn text(text: &str) -> String {
    format!("text:{}", text.replace('\\', "\\\\").replace(' ', "\\s"))
}
