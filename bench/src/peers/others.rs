// SPDX-License-Identifier: GPL-2.0

//! Searches that are common in Rust. They only take patterns without open bits here.

use aho_corasick::{AhoCorasick, MatchKind};
use memchr::memmem::Finder;
use regex::bytes::Regex;

use super::{Peer, Side};
use crate::patterns::Needle;

/// Returns all of them.
pub(super) fn all(patterns: &[Needle]) -> Vec<Peer> {
    vec![
        memmem(patterns),
        aho_corasick_overlapping(patterns),
        aho_corasick(patterns),
        regex(patterns),
        #[cfg(feature = "yara-x")]
        yara_x(patterns),
    ]
}

fn memmem(patterns: &[Needle]) -> Peer {
    let finders: Vec<_> = patterns
        .iter()
        .map(|needle| Finder::new(&needle.value).into_owned())
        .collect();
    Peer::new("memmem", Side::Other, false, move |memory| {
        let counts = finders
            .iter()
            .map(|finder| finder.find_iter(memory).count());
        counts.map(|count| count as u64).sum()
    })
}

fn bytes(patterns: &[Needle]) -> impl Iterator<Item = &Vec<u8>> {
    patterns.iter().map(|needle| &needle.value)
}

fn aho_corasick_overlapping(patterns: &[Needle]) -> Peer {
    let scanner = AhoCorasick::builder()
        .match_kind(MatchKind::Standard)
        .build(bytes(patterns))
        .expect("a small automaton");
    Peer::new("a-c, all", Side::Other, true, move |memory| {
        scanner.find_overlapping_iter(memory).count() as u64
    })
}

fn aho_corasick(patterns: &[Needle]) -> Peer {
    let scanner = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostFirst)
        .build(bytes(patterns))
        .expect("a small automaton");
    Peer::new("a-c", Side::Other, false, move |memory| {
        scanner.find_iter(memory).count() as u64
    })
}

fn regex(patterns: &[Needle]) -> Peer {
    let escape = |byte: &u8| format!("\\x{byte:02x}");
    let literal = |bytes: &Vec<u8>| bytes.iter().map(escape).collect::<String>();
    let any: Vec<_> = bytes(patterns).map(literal).collect();
    let regex = Regex::new(&format!("(?s-u){}", any.join("|"))).expect("a small expression");
    Peer::new("regex", Side::Other, false, move |memory| {
        regex.find_iter(memory).count() as u64
    })
}

#[cfg(feature = "yara-x")]
fn yara_x(patterns: &[Needle]) -> Peer {
    let strings: String = bytes(patterns)
        .enumerate()
        .map(|(index, bytes)| {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
            format!("$s{index} = {{ {digits}}}\n")
        })
        .collect();
    let rule = format!("rule r {{ strings: {strings} condition: any of them }}");
    // It is never freed: a scanner borrows it.
    let rules = Box::leak(Box::new(
        yara_x::compile(rule.as_str()).expect("a good rule"),
    ));
    Peer::new("yara-x", Side::Other, true, move |memory| {
        let mut scanner = yara_x::Scanner::new(rules);
        let results = scanner.scan(memory).expect("it is scanned");
        let rules = results.matching_rules();
        let count = |rule: yara_x::Rule<'_, '_>| {
            let patterns = rule.patterns();
            patterns
                .map(|pattern| pattern.matches().count())
                .sum::<usize>()
        };
        rules.map(count).sum::<usize>() as u64
    })
}
