// SPDX-License-Identifier: GPL-2.0

//! The peers: the speed limit, the project's own search with each of its engines, and others.

use std::arch::asm;

use aho_corasick::{AhoCorasick, MatchKind};
use kvm_inspect_pure::scan::{Engine, Host, Pattern, Scanner, Scratch, Tables};
use memchr::memmem::Finder;
use regex::bytes::Regex;

use crate::patterns::Needle;

/// The size of a chunk.
const CHUNK: usize = 256 << 10;

/// A search for a set of patterns, which counts matches.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Whether it is the project's own.
    pub(crate) is_ours: bool,
    /// Whether it finds all matches, and not only those that do not overlap.
    pub(crate) finds_all: bool,
    pub(crate) search: Search,
}

/// Searches memory. Returns the number of matches.
type Search = Box<dyn FnMut(&[u8]) -> u64>;

/// Returns all peers.
pub(crate) fn all(patterns: &[Needle]) -> Vec<Peer> {
    let mut peers: Vec<Peer> = kvm_inspect_pure::engines()
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .map(|engine| ours(patterns, engine))
        .collect();
    peers.push(memmem(patterns));
    peers.push(aho_corasick_overlapping(patterns));
    peers.push(aho_corasick(patterns));
    peers.push(regex(patterns));
    #[cfg(feature = "yara-x")]
    peers.push(yara_x(patterns));
    peers
}

/// Reads all of it, and does next to nothing with it.
pub(crate) fn sum(memory: &[u8], has_avx512: bool, fetch: bool) -> u64 {
    let size = memory.len() - memory.len() % 256;
    let mut sum = 0_u64;
    if size == 0 {
        return sum;
    }
    // Each in a loop of its own, so that none has instructions of the other.
    macro_rules! sum {
        ($fetch:literal, $($line:literal),+) => {
            // SAFETY: The CPU has the instructions. Only `memory` is read; prefetched addresses
            // need not be mapped.
            unsafe {
                asm!(
                    "2:",
                    $fetch,
                    $($line,)+
                    "add {at}, 256",
                    "cmp {at}, {end}",
                    "jb 2b",
                    "vmovq {sum}, xmm0",
                    "vzeroupper",
                    at = inout(reg) memory.as_ptr() => _,
                    end = in(reg) memory.as_ptr().wrapping_add(size),
                    sum = out(reg) sum,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    options(nostack, readonly),
                )
            }
        };
    }
    macro_rules! avx512 {
        ($fetch:literal) => {
            sum!(
                $fetch,
                "vpaddq zmm0, zmm0, [{at}]",
                "vpaddq zmm1, zmm1, [{at} + 64]",
                "vpaddq zmm2, zmm2, [{at} + 128]",
                "vpaddq zmm3, zmm3, [{at} + 192]"
            )
        };
    }
    macro_rules! avx2 {
        ($fetch:literal) => {
            sum!(
                $fetch,
                "vpaddq ymm0, ymm0, [{at}]",
                "vpaddq ymm1, ymm1, [{at} + 32]",
                "vpaddq ymm2, ymm2, [{at} + 64]",
                "vpaddq ymm3, ymm3, [{at} + 96]",
                "vpaddq ymm0, ymm0, [{at} + 128]",
                "vpaddq ymm1, ymm1, [{at} + 160]",
                "vpaddq ymm2, ymm2, [{at} + 192]",
                "vpaddq ymm3, ymm3, [{at} + 224]"
            )
        };
    }
    match (has_avx512, fetch) {
        (true, true) => avx512!(
            "prefetcht0 [{at} + 1024]
            prefetcht0 [{at} + 1088]
            prefetcht0 [{at} + 1152]
            prefetcht0 [{at} + 1216]"
        ),
        (true, false) => avx512!("nop"),
        (false, true) => avx2!(
            "prefetcht0 [{at} + 1024]
            prefetcht0 [{at} + 1088]
            prefetcht0 [{at} + 1152]
            prefetcht0 [{at} + 1216]"
        ),
        (false, false) => avx2!("nop"),
    }
    sum
}

struct Thread;

impl Host for Thread {
    fn vector<R>(&self, work: impl FnOnce() -> R) -> R {
        work()
    }

    fn breathe(&self) -> bool {
        true
    }
}

fn ours(patterns: &[Needle], engine: Engine) -> Peer {
    let patterns: Vec<Pattern> = patterns
        .iter()
        .map(|needle| Pattern::parse(needle.spec.as_bytes()).expect("a good pattern"))
        .collect();
    let mut tables = Box::new(Tables::new());
    let mut scratch = Box::new(Scratch::new());
    let _ = Scanner::new(&mut tables, &patterns, engine);
    Peer {
        name: engine.kind().name(),
        is_ours: true,
        finds_all: true,
        search: Box::new(move |memory| {
            let scanner = Scanner::of_prepared(&tables, &patterns, engine);
            let mut count = 0;
            for first in (0..memory.len()).step_by(CHUNK) {
                let begin = first..memory.len().min(first + CHUNK);
                let _ = scanner.search(memory, begin, &mut scratch, &Thread, |_| count += 1);
            }
            count
        }),
    }
}

fn memmem(patterns: &[Needle]) -> Peer {
    let finders: Vec<_> = patterns
        .iter()
        .map(|needle| Finder::new(&needle.bytes).into_owned())
        .collect();
    Peer {
        name: "memmem",
        is_ours: false,
        finds_all: false,
        search: Box::new(move |memory| {
            let counts = finders
                .iter()
                .map(|finder| finder.find_iter(memory).count());
            counts.map(|count| count as u64).sum()
        }),
    }
}

fn bytes(patterns: &[Needle]) -> impl Iterator<Item = &Vec<u8>> {
    patterns.iter().map(|needle| &needle.bytes)
}

fn aho_corasick_overlapping(patterns: &[Needle]) -> Peer {
    let scanner = AhoCorasick::builder()
        .match_kind(MatchKind::Standard)
        .build(bytes(patterns))
        .expect("a small automaton");
    Peer {
        name: "a-c, all",
        is_ours: false,
        finds_all: true,
        search: Box::new(move |memory| scanner.find_overlapping_iter(memory).count() as u64),
    }
}

fn aho_corasick(patterns: &[Needle]) -> Peer {
    let scanner = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostFirst)
        .build(bytes(patterns))
        .expect("a small automaton");
    Peer {
        name: "a-c",
        is_ours: false,
        finds_all: false,
        search: Box::new(move |memory| scanner.find_iter(memory).count() as u64),
    }
}

fn regex(patterns: &[Needle]) -> Peer {
    let escape = |byte: &u8| format!("\\x{byte:02x}");
    let literal = |bytes: &Vec<u8>| bytes.iter().map(escape).collect::<String>();
    let any: Vec<_> = bytes(patterns).map(literal).collect();
    let regex = Regex::new(&format!("(?s-u){}", any.join("|"))).expect("a small expression");
    Peer {
        name: "regex",
        is_ours: false,
        finds_all: false,
        search: Box::new(move |memory| regex.find_iter(memory).count() as u64),
    }
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
    Peer {
        name: "yara-x",
        is_ours: false,
        finds_all: true,
        search: Box::new(move |memory| {
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
        }),
    }
}
