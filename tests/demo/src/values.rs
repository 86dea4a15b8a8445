// SPDX-License-Identifier: GPL-2.0

//! Words `key=value` in a line with other words, such as one from the guest's console.

/// Returns the value of `key`.
#[must_use]
pub fn text<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split(' ')
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// Returns the value of `key`, a decimal number.
#[must_use]
pub fn number(line: &str, key: &str) -> Option<u64> {
    text(line, key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_among_other_words() {
        let line = "[ 1.2] ready cpus=2 secret=00ff beat=x";
        assert_eq!(text(line, "secret"), Some("00ff"));
        assert_eq!(number(line, "cpus"), Some(2));
        assert_eq!(number(line, "beat"), None);
        assert_eq!(text(line, "cpu"), None);
    }
}
