// SPDX-License-Identifier: GPL-2.0

//! A peer while it is measured.

use std::time::{Duration, Instant};

use crate::peers::Peer;

/// The longest time for one search. Slow peers get less memory.
const LONG: Duration = Duration::from_millis(60);

/// The least memory that is searched. Who is that slow waits for no memory.
const LEAST: usize = 8 << 20;

/// The size of the parts that a slow peer gets. They are from all over the memory.
const PART: usize = 1 << 20;

/// A peer that is measured.
pub(crate) struct Runner<'a> {
    pub(crate) peer: &'a mut Peer,
    parts: Vec<&'a [u8]>,
    /// The matches in the least memory, and in what it gets.
    counts: (u64, u64),
    pub(crate) shares: Vec<f64>,
}

impl<'a> Runner<'a> {
    /// Searches the least memory, to find out how much the peer gets.
    pub(crate) fn new(peer: &'a mut Peer, memory: &'a [u8]) -> Self {
        let mut runner = Self {
            peer,
            parts: parts(memory, LEAST),
            counts: (0, 0),
            shares: Vec::new(),
        };
        // Once to warm up.
        runner.search();
        let time = runner.search();
        let size = float(runner.size()) * LONG.as_secs_f64() / time;
        runner.counts.0 = runner.counts.1;
        let sizes = (LEAST..memory.len()).step_by(LEAST);
        let size = sizes.take_while(|at| float(*at) < size).last();
        let size = match size {
            Some(size) if size + LEAST < memory.len() => size,
            None => LEAST,
            Some(_) => memory.len(),
        };
        runner.parts = parts(memory, size);
        runner
    }

    fn size(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Returns the seconds that a search takes.
    fn search(&mut self) -> f64 {
        let Some(search) = &mut self.peer.search else {
            return 0.0;
        };
        let begun = Instant::now();
        let count = self.parts.iter().map(|part| search(part)).sum();
        let time = begun.elapsed().as_secs_f64();
        self.counts.1 = count;
        time
    }

    /// Takes part in a round. `limit` is the speed of memory.
    pub(crate) fn measure(&mut self, limit: f64) {
        let time = self.search();
        self.shares.push(float(self.size()) / time / limit);
    }

    /// Returns whether it misses matches that one of `all` finds in the same memory.
    pub(crate) fn misses_matches(&self, all: &[Self]) -> bool {
        let mut all = all.iter().filter(|other| other.peer.finds_all);
        self.peer.finds_all
            && all.any(|other| {
                let is_same = other.size() == self.size();
                other.counts.0 > self.counts.0 || (is_same && other.counts.1 > self.counts.1)
            })
    }
}

/// Returns parts of `memory` from all over it, of that size together, or all of it.
fn parts(memory: &[u8], size: usize) -> Vec<&[u8]> {
    if size >= memory.len() {
        return vec![memory];
    }
    let count = size / PART;
    let distance = memory.len() / count / 4096 * 4096;
    (0..count)
        .map(|index| &memory[index * distance..][..PART])
        .collect()
}

/// Returns a size to calculate with.
#[allow(clippy::cast_precision_loss, reason = "far from where that matters")]
pub(crate) fn float(size: usize) -> f64 {
    size as f64
}
