// SPDX-License-Identifier: GPL-2.0

//! One line of a report: a keyword and `key=value` pairs.

use std::{ops::RangeInclusive, str::FromStr};

use super::ParseError;

/// A line whose values are taken out one by one.
pub(super) struct Line<'a> {
    text: &'a str,
    pub(super) keyword: &'a str,
    values: Vec<(&'a str, &'a str)>,
}

impl<'a> Line<'a> {
    /// Takes a line apart.
    pub(super) fn parse(text: &'a str) -> Result<Self, ParseError> {
        let mut words = text.split(' ');
        let keyword = words.next().unwrap_or_default();
        let mut values: Vec<(&str, &str)> = Vec::new();
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                return Err(ParseError::Word {
                    word: word.to_owned(),
                    line: text.to_owned(),
                });
            };
            if values.iter().any(|(other, _)| *other == key) {
                return Err(ParseError::KeyTwice {
                    key: key.to_owned(),
                    line: text.to_owned(),
                });
            }
            values.push((key, value));
        }
        Ok(Self {
            text,
            keyword,
            values,
        })
    }

    /// Returns whether a line is part of a report: its second word is its number.
    pub(super) fn is_of_report(text: &str) -> bool {
        let word = text.split(' ').nth(1);
        let number = word.and_then(|word| word.strip_prefix("n="));
        number.and_then(number_of).is_some()
    }

    /// Takes the value of a key that the line may lack.
    pub(super) fn optional(&mut self, key: &str) -> Option<&'a str> {
        let at = self.values.iter().position(|(other, _)| *other == key)?;
        Some(self.values.remove(at).1)
    }

    /// Takes the value of a key.
    pub(super) fn take(&mut self, key: &str) -> Result<&'a str, ParseError> {
        self.optional(key).ok_or_else(|| ParseError::KeyMissing {
            key: key.to_owned(),
            line: self.text.to_owned(),
        })
    }

    pub(super) fn text(&mut self, key: &str) -> Result<String, ParseError> {
        self.take(key).map(str::to_owned)
    }

    /// Takes a decimal number, or a word that a type has a value for.
    pub(super) fn parsed<T: FromStr>(&mut self, key: &str) -> Result<T, ParseError> {
        let value = self.take(key)?;
        self.value(key, value)
    }

    /// Returns what the value of a key means, which was taken as text.
    pub(super) fn value<T: FromStr>(&self, key: &str, value: &str) -> Result<T, ParseError> {
        value.parse().map_err(|_| self.not_understood(key, value))
    }

    /// Takes a decimal number, or a hexadecimal one after `0x`.
    pub(super) fn number(&mut self, key: &str) -> Result<u64, ParseError> {
        let value = self.take(key)?;
        number_of(value).ok_or_else(|| self.not_understood(key, value))
    }

    /// Takes a range, `FIRST-LAST`.
    pub(super) fn range(&mut self, key: &str) -> Result<RangeInclusive<u64>, ParseError> {
        let value = self.take(key)?;
        let range = value.split_once('-');
        let range = range.and_then(|(first, last)| Some(number_of(first)?..=number_of(last)?));
        range.ok_or_else(|| self.not_understood(key, value))
    }

    /// Takes all that is left as numbers, whatever the keys are.
    pub(super) fn numbers<T: FromIterator<(String, u64)>>(&mut self) -> Result<T, ParseError> {
        let values = std::mem::take(&mut self.values);
        let number = |(key, value): (&str, &str)| {
            let number = number_of(value).ok_or_else(|| self.not_understood(key, value))?;
            Ok((key.to_owned(), number))
        };
        values.into_iter().map(number).collect()
    }

    /// Returns what was not taken, each with the keyword: `done new_key=1`.
    pub(super) fn left_over(self) -> impl Iterator<Item = String> + use<'a> {
        let keyword = self.keyword;
        let values = self.values.into_iter();
        values.map(move |(key, value)| format!("{keyword} {key}={value}"))
    }

    /// Returns the error of a value that makes no sense.
    pub(super) fn not_understood(&self, key: &str, value: &str) -> ParseError {
        ParseError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            line: self.text.to_owned(),
        }
    }
}

fn number_of(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // The standard library would take a sign.
    let has_sign = digits.starts_with('+');
    u64::from_str_radix(digits, radix)
        .ok()
        .filter(|_| !has_sign)
}
