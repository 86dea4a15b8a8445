// SPDX-License-Identifier: GPL-2.0

//! Patterns, as the user gives them.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use kvm_inspect_pure::scan::{Pattern, MAX_PATTERNS};
use sha2::{Digest, Sha256};

use super::super::failure::Failure;
use crate::{hex, json};

/// The most bytes of a file that are read.
const MAX_FILE: u64 = 64 << 20;

/// Adds the patterns of a file, or with `-` of standard input: one a line.
///
/// An empty line, and one that begins with `#`, is none. A carriage return at the end does not
/// belong to a pattern; `\x0d` writes one.
pub(super) fn read(path: &Path, patterns: &mut Vec<Vec<u8>>) -> Result<(), Failure> {
    let mut text = Vec::new();
    let result = if path == Path::new("-") {
        io::stdin().take(MAX_FILE).read_to_end(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text))
    };
    result.map_err(|error| {
        let path = path.display();
        Failure::Failed(format!("{path} cannot be read: {error}; give another file"))
    })?;
    patterns.extend(lines(&text).map(<[u8]>::to_vec));
    Ok(())
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = text.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

/// Checks patterns as the module does, before anything is asked of it.
pub(super) fn check(patterns: &[Vec<u8>]) -> Result<(), Failure> {
    if patterns.is_empty() {
        return Err(Failure::Usage(
            "there is no pattern; give one such as text:secret, or --file".to_owned(),
        ));
    }
    if patterns.len() > MAX_PATTERNS {
        let count = patterns.len();
        return Err(Failure::Usage(format!(
            "there are {count} patterns, and at most {MAX_PATTERNS} at once; search several times"
        )));
    }
    for (index, text) in patterns.iter().enumerate() {
        Pattern::parse(text)
            .map_err(|error| Failure::Usage(format!("pattern {index}: {error}")))?;
    }
    Ok(())
}

/// Returns what is printed of patterns that were checked.
pub(super) fn describe(patterns: &[Vec<u8>]) -> Vec<json::Pattern> {
    let patterns = patterns.iter().enumerate();
    let described = patterns.filter_map(|(number, text)| {
        let pattern = Pattern::parse(text).ok()?;
        let digest = hex::digits(&Sha256::digest(text));
        Some(json::Pattern {
            number,
            kind: Pattern::kind(text).to_owned(),
            length: pattern.len(),
            bits: pattern.bits(),
            digest: digest.get(..16)?.to_owned(),
        })
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_pattern_a_line() {
        let text = b"# indicators\r\ntext:a b\r\n\nhex:00\ntext:#\n  text:c";
        let lines: Vec<&[u8]> = lines(text).collect();
        assert_eq!(lines, [&b"text:a b"[..], b"hex:00", b"text:#", b"  text:c"]);
    }

    #[test]
    fn a_pattern_has_its_digest() {
        // printf %s text:secret | sha256sum
        let described = describe(&[b"text:secret".to_vec()]);
        let expected = json::Pattern {
            number: 0,
            kind: "text".to_owned(),
            length: 6,
            bits: 48,
            digest: "70f3dcd3e88c2ecb".to_owned(),
        };
        assert_eq!(described, [expected]);
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let result = read(Path::new("/nonexistent"), &mut Vec::new());
        assert!(matches!(result, Err(Failure::Failed(line)) if line.contains("; ")));
    }
}
