// SPDX-License-Identifier: GPL-2.0

//! Reading patterns.

use std::fmt::Write as _;

use kvm_inspect_pure::scan::{
    Pattern,
    PatternError,
    MAX_LEN, //
};
use proptest::{
    collection::vec,
    option,
    prelude::*, //
};
use unit::{
    hex,
    Nibbles, //
};

fn exact(spec: impl AsRef<[u8]>) -> Vec<u8> {
    let pattern = Pattern::parse(spec.as_ref()).expect("a good pattern");
    assert_eq!(pattern.mask(), vec![0xff; pattern.len()]);
    pattern.value().to_vec()
}

fn error(spec: impl AsRef<[u8]>) -> PatternError {
    Pattern::parse(spec.as_ref()).expect_err("a bad pattern")
}

#[test]
fn text() {
    assert_eq!(exact("text:abc"), b"abc");
    assert_eq!(exact("text: hex:?? "), b" hex:?? ");
    assert_eq!(exact(b"text:\x00\xff,"), b"\x00\xff,");
    assert_eq!(exact(r"text:\\\s\x2c\xfF\\s"), b"\\ ,\xff\\s");
}

#[test]
fn utf16() {
    assert_eq!(exact("utf16:ab"), b"a\0b\0");
    assert_eq!(exact("utf16:\u{20ac}"), b"\xac\x20");
    assert_eq!(exact("utf16:\u{1f600}."), b"\x3d\xd8\x00\xde.\0");
    assert_eq!(exact(r"utf16:\\\s\x2c\xe9\\s"), b"\\\0 \0,\0\xe9\0\\\0s\0");
}

#[test]
fn utf16_in_either_case() {
    let pattern = Pattern::parse("iutf16:aZ1\u{141}\\x42é".as_bytes()).expect("a good pattern");
    assert_eq!(pattern.value(), b"A\0Z\x001\0\x41\x01B\0\xe9\0");
    let mask = [
        0xdf, 0xff, 0xdf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xdf, 0xff, 0xff, 0xff,
    ];
    assert_eq!(pattern.mask(), mask);
    assert!(pattern.matches(b"a\0z\x001\0\x41\x01b\0\xe9\0"));
    assert!(!pattern.matches(b"a\0z\x001\0\x61\x01b\0\xe9\0"));
}

#[test]
fn kinds() {
    for kind in ["text", "itext", "utf16", "iutf16", "hex"] {
        assert_eq!(Pattern::kind(format!("{kind}:41").as_bytes()), kind);
    }
    assert_eq!(Pattern::kind(b"texts:41"), "none");
    let pattern = Pattern::parse(b"hex:4? ?? ff").expect("a good pattern");
    assert_eq!(pattern.bits(), 12);
}

#[test]
fn hex_digits() {
    assert_eq!(exact("hex:00ffAbaB"), b"\x00\xff\xab\xab");
    assert_eq!(exact("hex: 48  8b 05 "), b"\x48\x8b\x05");

    let pattern = Pattern::parse(b"hex:48 ?? 4? ?f").expect("a good pattern");
    assert_eq!(pattern.len(), 4);
    assert_eq!(pattern.value(), [0x48, 0x00, 0x40, 0x0f]);
    assert_eq!(pattern.mask(), [0xff, 0x00, 0xf0, 0x0f]);
    assert!(pattern.matches(&[0x48, 0x77, 0x4a, 0xaf]));
    assert!(!pattern.matches(&[0x48, 0x77, 0x5a, 0xaf]));
    assert!(!pattern.matches(&[0x48, 0x77, 0x4a]));
    assert!(!pattern.matches(&[0x48, 0x77, 0x4a, 0xaf, 0x00]));
}

#[test]
fn unknown_prefix() {
    for spec in [
        "",
        "abc",
        "text",
        "Text:abc",
        "hex 41",
        "utf8:abc",
        " text:abc",
        ":",
    ] {
        assert_eq!(error(spec), PatternError::UnknownPrefix, "{spec:?}");
    }
}

#[test]
fn empty() {
    for spec in ["text:", "utf16:", "iutf16:", "hex:", "hex:  "] {
        assert_eq!(error(spec), PatternError::Empty, "{spec:?}");
    }
}

#[test]
fn too_long() {
    let full = "a".repeat(MAX_LEN);
    assert_eq!(exact(format!("text:{full}")).len(), MAX_LEN);
    assert_eq!(error(format!("text:{full}a")), PatternError::TooLong);

    let half = "a".repeat(MAX_LEN / 2);
    assert_eq!(exact(format!("utf16:{half}")).len(), MAX_LEN);
    assert_eq!(error(format!("utf16:{half}a")), PatternError::TooLong);

    let digits = "41".repeat(MAX_LEN);
    assert_eq!(exact(format!("hex:{digits}")).len(), MAX_LEN);
    assert_eq!(error(format!("hex:{digits}??")), PatternError::TooLong);
}

#[test]
fn only_wildcards() {
    assert_eq!(error("hex:??"), PatternError::OnlyWildcards);
    assert_eq!(error("hex:?? ?? ??"), PatternError::OnlyWildcards);
    assert!(Pattern::parse(b"hex:?? ?0 ??").is_ok());
}

#[test]
fn half_a_byte() {
    assert_eq!(error("hex:4"), PatternError::HalfByte { at: 5 });
    assert_eq!(error("hex:41 4 41"), PatternError::HalfByte { at: 8 });
    assert_eq!(error("hex:414"), PatternError::HalfByte { at: 7 });
    assert_eq!(error("hex:?"), PatternError::HalfByte { at: 5 });
}

#[test]
fn not_a_hex_digit() {
    for (spec, at, found) in [
        ("hex:g1", 5, b'g'),
        ("hex:41 4x", 9, b'x'),
        ("hex:0x41", 6, b'x'),
        ("hex:41-42", 7, b'-'),
        ("hex:41\n", 7, b'\n'),
    ] {
        assert_eq!(error(spec), PatternError::NotHex { at, found }, "{spec:?}");
    }
}

#[test]
fn bad_escape() {
    for kind in ["text", "utf16"] {
        for escape in [
            r"\", r"\n", r"\x", r"\x4", r"\x4g", r"\xg4", r"\S", "\\\u{e9}",
        ] {
            let spec = format!("{kind}:ab{escape}");
            let at = kind.len() + 4;
            assert_eq!(error(&spec), PatternError::BadEscape { at }, "{spec}");
        }
    }
}

#[test]
fn utf16_of_what_is_not_utf8() {
    assert_eq!(error(b"utf16:\xff"), PatternError::NotUtf8 { at: 7 });
    assert_eq!(error(b"utf16:ab\xc3"), PatternError::NotUtf8 { at: 9 });
    assert_eq!(
        error(b"utf16:\xc3\xa9\xed\xa0\x80"),
        PatternError::NotUtf8 { at: 9 }
    );
}

#[test]
fn errors_say_what_to_do() {
    for (spec, message) in [
        (
            "abc",
            "the kind of pattern is not known; begin it with text:, itext:, utf16:, iutf16: \
             or hex:",
        ),
        (
            "text:",
            "the pattern is empty; write at least one byte after the prefix",
        ),
        (
            &format!("text:{}", "a".repeat(257)),
            "the pattern makes more than 256 bytes; leave out some of them",
        ),
        (
            "hex:??",
            "the pattern matches everywhere; write at least one digit that is not ?",
        ),
        (
            "hex:414",
            "the byte at position 7 has one hex digit; write two for each byte, ? for one that \
             may be any",
        ),
        (
            "hex:4\n",
            r"'\n' at position 6 is no hex digit; write 0-9, a-f, or ? for one that may be any",
        ),
        (
            r"text:\n",
            "the escape at position 6 is not known; write \\\\ for a backslash, \\s for a space, \
             \\xHH for the byte HH",
        ),
    ] {
        assert_eq!(error(spec).to_string(), message);
    }
    assert_eq!(
        error(b"utf16:\xff").to_string(),
        "the text is not UTF-8 at position 7; write it in UTF-8, or the bytes to be found with \
         hex:"
    );
}

/// Returns bytes that are often almost a pattern.
fn any_spec() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop_oneof![
        Just("text:"),
        Just("itext:"),
        Just("utf16:"),
        Just("iutf16:"),
        Just("hex:"),
        Just("hex:4"),
        Just("")
    ];
    let body = prop_oneof![
        vec(any::<u8>(), 0..600),
        r"[0-9a-f? \\xs]{0,600}".prop_map(String::into_bytes),
        ".{0,300}".prop_map(String::into_bytes),
    ];
    (prefix, body).prop_map(|(prefix, body)| [prefix.as_bytes(), &body].concat())
}

proptest! {
    #[test]
    fn anything_is_read_or_refused(spec in any_spec()) {
        match Pattern::parse(&spec) {
            Ok(pattern) => {
                prop_assert!((1..=MAX_LEN).contains(&pattern.len()));
                prop_assert_eq!(pattern.value().len(), pattern.len());
                prop_assert_eq!(pattern.mask().len(), pattern.len());
                prop_assert!(pattern.mask().iter().any(|&mask| mask != 0));
                prop_assert!(pattern.matches(pattern.value()));
            }
            Err(error) => {
                let message = error.to_string();
                prop_assert!(message.contains("; "), "no advice: {}", message);
                prop_assert!(!message.contains('\n'));
            }
        }
    }

    #[test]
    fn hex_comes_back(
        bytes in vec((option::weighted(0.8, 0..16_u8), option::weighted(0.8, 0..16_u8)), 1..=256)
    ) {
        let open = |nibble: Option<u8>| match nibble {
            Some(value) => (value, 0xf),
            None => (0, 0),
        };
        let (values, masks): (Vec<_>, Vec<_>) = bytes
            .iter()
            .map(|&(high, low): &Nibbles| (open(high), open(low)))
            .map(|((high, high_mask), (low, low_mask))| {
                ((high << 4) | low, (high_mask << 4) | low_mask)
            })
            .unzip();
        prop_assume!(masks.iter().any(|&mask| mask != 0));
        let pattern = Pattern::parse(hex(&bytes).as_bytes()).expect("a good pattern");
        prop_assert_eq!(pattern.value(), values);
        prop_assert_eq!(pattern.mask(), masks);
    }

    #[test]
    fn escaped_text_comes_back(bytes in vec(any::<u8>(), 1..=256)) {
        let spec = bytes.iter().fold(String::from("text:"), |mut spec, byte| {
            match byte {
                b'\\' => spec.push_str(r"\\"),
                b' ' => spec.push_str(r"\s"),
                b'a'..=b'z' => spec.push(char::from(*byte)),
                byte => write!(spec, r"\x{byte:02x}").expect("room"),
            }
            spec
        });
        prop_assert_eq!(exact(spec), bytes);
    }

    #[test]
    fn utf16_is_that_of_the_standard_library(text in "[^\\\\]{1,64}") {
        let expected: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        prop_assert_eq!(exact(format!("utf16:{text}")), expected);
    }

    #[test]
    fn utf16_matches_in_either_case(text in "[^\\\\]{1,64}", upper in any::<u64>()) {
        let pattern = Pattern::parse(format!("iutf16:{text}").as_bytes()).expect("a good pattern");
        let bytes = |text: &str| -> Vec<u8> {
            text.encode_utf16().flat_map(u16::to_le_bytes).collect()
        };
        let other: String = text
            .chars()
            .enumerate()
            .map(|(index, char)| match (upper >> (index % 64)) & 1 {
                0 => char.to_ascii_lowercase(),
                _ => char.to_ascii_uppercase(),
            })
            .collect();
        prop_assert!(pattern.matches(&bytes(&other)));
        // Any other bit makes a difference.
        let mut bytes = bytes(&other);
        let at = usize::try_from(upper).unwrap_or(0) % bytes.len();
        let bit = if bytes[at].is_ascii_alphabetic() { 0x40 } else { 0x80 };
        bytes[at] ^= bit;
        prop_assert!(!pattern.matches(&bytes));
    }
}
