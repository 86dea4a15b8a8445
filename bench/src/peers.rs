// SPDX-License-Identifier: GPL-2.0

//! The peers: the project's own search with each of its engines, vectorscan held to the same
//! instructions, and others.

mod limit;
mod others;
#[cfg(feature = "vectorscan")]
mod vectorscan;

pub(crate) use limit::sum;

use kvm_inspect_pure::scan::{Engine, EngineKind, Host, Pattern, Scanner, Scratch};

use crate::patterns::{Kind, Needle};

/// The size of a chunk.
const CHUNK: usize = 256 << 10;

/// The most patterns for which common searches do not take minutes.
const MOST_FOR_OTHERS: usize = 256;

/// Whose a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The project's own, with the instructions of an engine.
    Ours(EngineKind),
    /// Vectorscan, with no more than these instructions.
    Vectorscan(EngineKind),
    Other,
}

/// A search for a set of patterns, which counts matches.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) side: Side,
    /// Whether it finds all matches, and not only those that do not overlap.
    pub(crate) finds_all: bool,
    /// Not there if it cannot take the patterns.
    pub(crate) search: Option<Search>,
}

/// Searches memory. Returns the number of matches.
type Search = Box<dyn FnMut(&[u8]) -> u64>;

impl Peer {
    fn new(
        name: &'static str,
        side: Side,
        finds_all: bool,
        search: impl FnMut(&[u8]) -> u64 + 'static,
    ) -> Self {
        Self {
            name,
            side,
            finds_all,
            search: Some(Box::new(search)),
        }
    }
}

/// Returns whether this machine has the fastest engine's instructions.
pub(crate) fn has_avx512() -> bool {
    kvm_inspect_pure::engines().any(|engine| engine.kind() == EngineKind::Avx512)
}

/// Returns all peers for each of these sets of more and more patterns: of each level ours and
/// vectorscan, then others.
pub(crate) fn all(kind: Kind, sets: &[Vec<Needle>]) -> Vec<Vec<Peer>> {
    #[cfg(feature = "vectorscan")]
    let mut vectorscan = vectorscan::Maker::new();
    let mut engines: Vec<_> = kvm_inspect_pure::engines().collect();
    engines.reverse();
    sets.iter()
        .map(|patterns| {
            let mut peers = Vec::new();
            for engine in &engines {
                peers.push(ours(patterns, *engine));
                #[cfg(feature = "vectorscan")]
                peers.push(vectorscan.make(patterns, engine.kind()));
            }
            if kind == Kind::Long && patterns.len() <= MOST_FOR_OTHERS {
                peers.extend(others::all(patterns));
            }
            peers
        })
        .collect()
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
    let mut tables = kvm_inspect_pure::tables();
    let mut scratch = Box::new(Scratch::new());
    let _ = Scanner::new(&mut tables, &patterns, engine);
    let kind = engine.kind();
    Peer::new(kind.name(), Side::Ours(kind), true, move |memory| {
        let scanner = Scanner::of_prepared(&tables, &patterns, engine);
        let mut count = 0;
        for first in (0..memory.len()).step_by(CHUNK) {
            let begin = first..memory.len().min(first + CHUNK);
            let _ = scanner.search(memory, begin, &mut scratch, &Thread, |_| count += 1);
        }
        count
    })
}
