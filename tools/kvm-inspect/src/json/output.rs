// SPDX-License-Identifier: GPL-2.0

//! Writes objects, also those whose lists are not there yet.

use std::{
    cell::RefCell,
    fmt::{self, Display},
    io,
};

use serde::{
    ser::{Error as _, SerializeSeq, Serializer}, // codespell:ignore ser
    Serialize,
};
use serde_json::ser::Formatter; // codespell:ignore ser

/// Writes an object and the end of the line.
///
/// # Errors
///
/// It cannot be written, or what a [`Stream`] has to give fails.
pub fn write(mut writer: impl io::Write, object: &impl Serialize) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(&mut writer, Printable);
    object.serialize(&mut serializer)?;
    writer.write_all(b"\n")
}

/// A list that is written while it is made.
pub struct Stream<I>(RefCell<I>);

impl<I> Stream<I> {
    /// Creates it from what gives the elements. It can be written once.
    pub const fn new(elements: I) -> Self {
        Self(RefCell::new(elements))
    }
}

impl<T, E, I> Serialize for Stream<I>
where
    T: Serialize,
    E: Display,
    I: Iterator<Item = Result<T, E>>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut elements = self.0.try_borrow_mut().map_err(S::Error::custom)?;
        let mut list = serializer.serialize_seq(None)?;
        for element in elements.by_ref() {
            list.serialize_element(&element.map_err(S::Error::custom)?)?;
        }
        list.end()
    }
}

impl<I> fmt::Debug for Stream<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

/// A value that is known when it is written.
pub struct Later<F>(F);

impl<F> Later<F> {
    /// Creates it from what tells the value.
    pub const fn new(value: F) -> Self {
        Self(value)
    }
}

impl<T: Serialize, F: Fn() -> T> Serialize for Later<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.0)().serialize(serializer)
    }
}

impl<F> fmt::Debug for Later<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Later")
    }
}

/// Escapes what a terminal could take for a command, or does not show.
struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        let mut rest = fragment;
        while let Some((at, char)) = rest.char_indices().find(|(_, char)| is_hidden(*char)) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = from.get(char.len_utf8()..).unwrap_or_default();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Returns whether a character is none that is seen as itself.
fn is_hidden(char: char) -> bool {
    !char.is_ascii_graphic() && char != ' ' && char.escape_debug().len() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(object: &impl Serialize) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes, object).expect("written");
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        let name = "é \"\\ \x1b[2J\u{7f}\u{9b}2J\u{202e}\u{e0041}\n";
        let text = written(&name);
        assert_eq!(
            text,
            concat!(
                r#""é \"\\ \u001b[2J\u007f\u009b2J\u202e\udb40\udc41\n""#,
                "\n"
            )
        );
        let back: String = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back, name);
    }

    #[test]
    fn a_list_is_written_while_it_is_made() {
        let count = RefCell::new(0);
        let elements = (0..3).map(|number| {
            *count.borrow_mut() += 1;
            Ok::<_, String>(number)
        });
        let object = (Stream::new(elements), Later::new(|| *count.borrow()));
        assert_eq!(written(&object), "[[0,1,2],3]\n");
    }

    #[test]
    fn an_error_ends_it() {
        let elements = [Ok(1), Err("no more")].into_iter();
        let mut bytes = Vec::new();
        let error = write(&mut bytes, &Stream::new(elements)).expect_err("an error");
        assert!(error.to_string().contains("no more"));
        assert_eq!(bytes, b"[1");
    }
}
