// SPDX-License-Identifier: GPL-2.0

//! Comparing the arguments as written with what the kernel makes of them.

use kvm_inspect_pure::arguments::{
    check,
    is_same_name,
    ArgumentError, //
};
use proptest::{
    collection::vec,
    prelude::*, //
};

type Arguments = Vec<(Vec<u8>, Vec<u8>)>;

fn is_known(name: &[u8]) -> bool {
    let all: [&[u8]; 4] = [b"pid", b"max_hits", b"pattern", b"range"];
    all.iter().any(|known| is_same_name(known, name))
}

fn checked(text: &[u8]) -> Result<Arguments, ArgumentError<'_>> {
    let mut taken = Vec::new();
    check(text, is_known, |name, value| {
        taken.push((name.to_vec(), value.to_vec()));
    })?;
    Ok(taken)
}

/// What `next_arg` of the kernel (`lib/cmdline.c`) makes of it.
fn of_the_kernel(text: &[u8]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let is_space = |byte: u8| matches!(byte, b' ' | 0x09..=0x0d | 0xa0);
    let mut arguments = Vec::new();
    let mut text = text.to_vec();
    text.push(0);
    let mut args = 0;
    while is_space(text[args]) {
        args += 1;
    }
    while text[args] != 0 {
        let (mut in_quote, mut quoted) = (false, false);
        if text[args] == b'"' {
            args += 1;
            (in_quote, quoted) = (true, true);
        }
        let (mut i, mut equals) = (0, 0);
        while text[args + i] != 0 {
            let byte = text[args + i];
            if is_space(byte) && !in_quote {
                break;
            }
            if equals == 0 && byte == b'=' {
                equals = i;
            }
            if byte == b'"' {
                in_quote = !in_quote;
            }
            i += 1;
        }
        let param = args;
        let mut value = None;
        if equals != 0 {
            text[args + equals] = 0;
            let mut start = args + equals + 1;
            if text[start] == b'"' {
                start += 1;
                if text[args + i - 1] == b'"' {
                    text[args + i - 1] = 0;
                }
            }
            value = Some(start);
        }
        if quoted && i > 0 && text[args + i - 1] == b'"' {
            text[args + i - 1] = 0;
        }
        let is_end = text[args + i] == 0;
        text[args + i] = 0;
        let string = |start: usize| {
            let rest = &text[start..];
            rest.iter().copied().take_while(|byte| *byte != 0).collect()
        };
        arguments.push((string(param), value.map(string)));
        args += i + usize::from(!is_end);
        while is_space(text[args]) {
            args += 1;
        }
    }
    arguments
}

#[test]
fn plain_arguments_are_taken() {
    let taken = checked(b"pid=1 pattern=text:a,hex:00 range= pattern=\"text:b c\" max-hits=0x10 ");
    let taken = taken.expect("nothing is wrong");
    let expected: [(&[u8], &[u8]); 5] = [
        (b"pid", b"1"),
        (b"pattern", b"text:a,hex:00"),
        (b"range", b""),
        (b"pattern", b"text:b c"),
        (b"max-hits", b"0x10"),
    ];
    assert!(taken
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .eq(expected));
    assert_eq!(checked(b""), Ok(vec![]));
    // In quotes it is no space.
    assert!(checked(b"pattern=\"text:voil\xc3\xa0\"").is_ok());
}

#[test]
fn other_arguments_are_refused() {
    let unknown = |text| match checked(text) {
        Err(ArgumentError::Unknown { name }) => String::from_utf8_lossy(name).into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(unknown(b"patterns=text:a"), "patterns");
    assert_eq!(unknown(b"pattern=text:my secret"), "secret");
    assert_eq!(unknown(b"pid=1 -- x"), "--");
    assert_eq!(unknown(b"pattern"), "pattern");
    assert_eq!(unknown(b"=1"), "");
    let quotes: [&[u8]; 6] = [
        b"pattern=text:\"access_token\":\" max_hits=9",
        b"pattern=\"text:a\"b",
        b"pattern=\"text:a",
        b"pattern=text:a\"",
        b"\"pattern=text:a b\"",
        b"pat\"tern=text:a",
    ];
    for text in quotes {
        let error = checked(text).expect_err("there are quotes");
        assert!(matches!(error, ArgumentError::Quote { .. }), "{error:?}");
    }
    let error = checked(b"pattern=text:voil\xc3\xa0").expect_err("the kernel cuts it");
    let name = &b"pattern"[..];
    assert_eq!(error, ArgumentError::Blank { name, byte: 0xa0 });
    let error = checked(b"pattern=text:a  pid=1").expect_err("one may belong to it");
    assert_eq!(error, ArgumentError::Blanks { name });
    assert!(checked(b"pid=1  max_hits=1").is_ok());
    for text in [
        &b"max_hits=010"[..],
        b"pid=-010",
        b"max_hits=0b1",
        b"max_hits=0o7",
    ] {
        let error = checked(text).expect_err("it is not decimal");
        assert!(matches!(error, ArgumentError::Octal { .. }), "{error:?}");
    }
    for text in [
        &b"max_hits=0"[..],
        b"max_hits=0x10",
        b"pid=-1",
        b"pattern=01",
    ] {
        assert!(checked(text).is_ok());
    }
    let error = checked(b"max_hits=1 max-hits=1").expect_err("they are the same");
    let name = &b"max-hits"[..];
    assert_eq!(error, ArgumentError::Twice { name });
    // Each says what to do, and none is long.
    let long = [b"x".repeat(1000), b"=1".to_vec()].concat();
    for text in quotes.iter().copied().chain([&*long]) {
        let line = checked(text).expect_err("it is wrong").to_string();
        assert!(line.contains("; ") && line.len() < 300, "{line}");
    }
}

proptest! {
    /// What passes is what the kernel makes of it.
    #[test]
    fn what_passes_is_what_the_kernel_takes(
        text in vec(prop_oneof![
            Just(b"pattern=".to_vec()),
            Just(b"range=".to_vec()),
            Just(b"pid=".to_vec()),
            Just(b" ".to_vec()),
            Just(b"\"".to_vec()),
            vec(prop_oneof![Just(b'a'), Just(b'='), Just(b' '), Just(0xa0), 1..=255_u8], 0..4),
        ], 0..12),
    ) {
        let text = text.concat();
        if let Ok(taken) = checked(&text) {
            let taken: Vec<_> = taken
                .into_iter()
                .map(|(name, value)| (name, Some(value)))
                .collect();
            prop_assert_eq!(taken, of_the_kernel(&text));
        }
    }

    /// Arguments without quotes and spaces pass.
    #[test]
    fn plain_text_passes(values in vec("[!#-~]{0,20}", 0..20)) {
        let text: Vec<_> = values.iter().map(|value| format!("pattern={value}")).collect();
        let taken = checked(text.join(" ").as_bytes()).map_err(|error| error.to_string());
        let expected: Vec<_> = values
            .iter()
            .map(|value| (b"pattern".to_vec(), value.clone().into_bytes()))
            .collect();
        prop_assert_eq!(taken, Ok(expected));
    }
}
