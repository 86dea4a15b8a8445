// SPDX-License-Identifier: GPL-2.0

//! The module's arguments as they were written, before the kernel's parser took them apart.
//!
//! That parser (`next_arg` in `lib/cmdline.c`) ends a value at the first space, takes quotes away,
//! lets them join what belongs apart, and `parse_args` only warns of a name that nobody knows. So
//! the module checks that nothing of the kind has happened: what was written is what was taken.

#![forbid(unsafe_code)]

use core::fmt;

/// The parameters that may be given several times.
const LISTS: [&[u8]; 2] = [b"pattern", b"range"];

/// The parameters that each module has (`load_module` in `kernel/module/main.c`).
const OF_THE_KERNEL: [&[u8]; 2] = [b"async_probe", b"dyndbg"];

/// The most arguments that are compared with each other.
const MAX_SINGLE: usize = 64;

/// Checks the arguments `text` strictly. Gives `take` each name and value.
///
/// `is_known` says whether the module has a parameter.
///
/// # Errors
///
/// The first thing that the kernel may have taken for something else than what was meant.
pub fn check<'a>(
    text: &'a [u8],
    is_known: impl Fn(&[u8]) -> bool,
    mut take: impl FnMut(&'a [u8], &'a [u8]),
) -> Result<(), ArgumentError<'a>> {
    let mut singles = [&[][..]; MAX_SINGLE];
    let mut rest = text.trim_ascii_start();
    while !rest.is_empty() {
        let name_len = length(rest, |byte| byte == b'=' || byte == b'"' || is_blank(byte));
        let (name, after) = split(rest, name_len);
        let Some(after) = after.strip_prefix(b"=") else {
            return Err(if after.starts_with(b"\"") {
                ArgumentError::Quote { name }
            } else {
                ArgumentError::Unknown { name }
            });
        };
        if !is_known(name) && !OF_THE_KERNEL.contains(&name) {
            return Err(ArgumentError::Unknown { name });
        }
        let (value, after) = value(name, after)?;
        if !LISTS.contains(&name) {
            if is_octal(value) {
                return Err(ArgumentError::Octal { name });
            }
            if singles.iter().any(|other| is_same_name(other, name)) {
                return Err(ArgumentError::Twice { name });
            }
            match singles.iter_mut().find(|single| single.is_empty()) {
                Some(single) => *single = name,
                None => return Err(ArgumentError::Unknown { name }),
            }
        }
        take(name, value);
        rest = after;
    }
    Ok(())
}

/// Returns whether the kernel takes two names for the same (`parameq` in `kernel/params.c`).
#[must_use]
pub fn is_same_name(one: &[u8], other: &[u8]) -> bool {
    let underscored = |byte: &u8| if *byte == b'-' { b'_' } else { *byte };
    one.iter()
        .map(underscored)
        .eq(other.iter().map(underscored))
}

/// Returns whether a number begins with a 0 by which the kernel takes it for an octal or binary one
/// (`rust/kernel/str/parse_int.rs`). No other value begins so.
fn is_octal(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    matches!(digits, [b'0', next, ..] if !matches!(next, b'x' | b'X'))
}

/// Takes a value from the beginning of `text`. Returns it and the next argument with all after it.
fn value<'a>(name: &'a [u8], text: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), ArgumentError<'a>> {
    let (value, after, is_quoted) = if let Some(text) = text.strip_prefix(b"\"") {
        let (value, after) = split(text, length(text, |byte| byte == b'"'));
        let after = after.strip_prefix(b"\"");
        (value, after.ok_or(ArgumentError::Quote { name })?, true)
    } else {
        let (value, after) = split(text, length(text, |byte| byte == b'"' || is_blank(byte)));
        (value, after, false)
    };
    match after.first() {
        // What the kernel takes for a space, too (`isspace`), and people may not.
        Some(&byte @ (0x0b | 0x0c | b'\r' | 0xa0)) => Err(ArgumentError::Blank { name, byte }),
        Some(&byte) if !is_blank(byte) => Err(ArgumentError::Quote { name }),
        _ => {
            let blanks = length(after, |byte| !is_blank(byte));
            // One may be what `insmod` puts after each argument.
            if LISTS.contains(&name) && !is_quoted && blanks > 1 {
                return Err(ArgumentError::Blanks { name });
            }
            let (_, next) = split(after, blanks);
            Ok((value, next))
        }
    }
}

/// Returns whether the kernel takes the byte for a space (`lib/ctype.c`).
const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | 0x09..=0x0d | 0xa0)
}

/// Returns how many bytes come before the first one that `is_end`.
fn length(text: &[u8], is_end: impl Fn(u8) -> bool) -> usize {
    let end = text.iter().position(|byte| is_end(*byte));
    end.unwrap_or(text.len())
}

fn split(text: &[u8], at: usize) -> (&[u8], &[u8]) {
    text.split_at_checked(at).unwrap_or((text, &[]))
}

/// What may have been meant differently than the kernel took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentError<'a> {
    /// There is no parameter with this name.
    Unknown {
        /// The name.
        name: &'a [u8],
    },
    /// A parameter that has one value has two.
    Twice {
        /// Its name.
        name: &'a [u8],
    },
    /// A number is octal or binary.
    Octal {
        /// The name of its parameter.
        name: &'a [u8],
    },
    /// There are quotes elsewhere than around a whole value.
    Quote {
        /// The name of the parameter.
        name: &'a [u8],
    },
    /// A value has a byte at which the kernel cuts it.
    Blank {
        /// The name of the parameter.
        name: &'a [u8],
        /// The byte.
        byte: u8,
    },
    /// A list is followed by several spaces, of which some may belong to it.
    Blanks {
        /// The name of the parameter.
        name: &'a [u8],
    },
}

impl fmt::Display for ArgumentError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown { name } => write!(
                f,
                "'{}' is no parameter; modinfo lists them, and a space in a pattern is written \\s",
                Short(name)
            ),
            Self::Twice { name } => write!(f, "{}= is given twice; give it once", Short(name)),
            Self::Octal { name } => write!(
                f,
                "{}= begins with 0, which the kernel takes for octal; give a decimal number, or a \
                 hexadecimal one after 0x",
                Short(name)
            ),
            Self::Quote { name: [] } => f.write_str(
                "there are quotes around a whole parameter; put them around its value only",
            ),
            Self::Quote { name } => write!(
                f,
                "there is a quote in {}=; write it as \\x22 in a pattern, or put quotes around the \
                 whole value only",
                Short(name)
            ),
            Self::Blank { name, byte } => write!(
                f,
                "the kernel cuts {}= at its byte {byte:#04x}; write it as \\x{byte:02x} in text: \
                 or itext:, or put quotes around the whole value",
                Short(name)
            ),
            Self::Blanks { name } => write!(
                f,
                "several spaces follow {}=; write one that belongs to a pattern as \\s, and leave \
                 out the others",
                Short(name)
            ),
        }
    }
}

/// Prints the beginning of a text.
struct Short<'a>(&'a [u8]);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (beginning, rest) = split(self.0, 64);
        let end = if rest.is_empty() { "" } else { "..." };
        write!(f, "{}{end}", beginning.escape_ascii())
    }
}
