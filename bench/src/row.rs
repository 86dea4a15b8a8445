// SPDX-License-Identifier: GPL-2.0

//! One row of the results: all peers with the same patterns in the same memory.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use kvm_inspect_pure::scan::EngineKind;

use crate::{
    goals,
    inputs::Input,
    patterns::Kind,
    peers::{self, Peer, Side},
};

/// The longest time for one search. Slow peers get less memory.
const LONG: Duration = Duration::from_millis(80);

/// The least memory that is searched. Who is that slow waits for no memory.
const LEAST: usize = 8 << 20;

/// The size of the parts that a slow peer gets. They are from all over the memory.
const PART: usize = 1 << 20;

/// The width of a peer's column.
const WIDTH: usize = 9;

/// What is measured in a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) kind: Kind,
    pub(crate) input: Input,
    pub(crate) count: usize,
    pub(crate) rounds: usize,
}

/// The results of a row.
pub(crate) struct Row {
    task: Task,
    /// The speed of memory, in bytes a second.
    limit: f64,
    /// What each peer reaches.
    cells: Vec<Cell>,
    /// The peers that find other matches than the rest.
    wrong: Vec<&'static str>,
}

struct Cell {
    name: &'static str,
    side: Side,
    /// The share of the limit, if it can take the patterns.
    share: Option<f64>,
}

/// A peer that is measured.
struct Runner<'a> {
    peer: &'a mut Peer,
    parts: Vec<&'a [u8]>,
    /// The matches in the least memory, and in what it gets.
    counts: (u64, u64),
    shares: Vec<f64>,
}

impl<'a> Runner<'a> {
    /// Searches the least memory, to find out how much the peer gets.
    fn new(peer: &'a mut Peer, memory: &'a [u8]) -> Self {
        let parts = parts(memory, LEAST);
        let mut runner = Self {
            peer,
            parts,
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
        runner.parts = self::parts(memory, size);
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
    fn measure(&mut self, limit: f64) {
        let time = self.search();
        self.shares.push(float(self.size()) / time / limit);
    }
}

impl Row {
    /// Measures a row.
    pub(crate) fn measure(task: Task, memory: &[u8], peers: &mut [Peer]) -> Self {
        let has_avx512 = peers::has_avx512();
        let (mut cells, mut runners) = (Vec::new(), Vec::new());
        for peer in peers {
            cells.push(Cell {
                name: peer.name,
                side: peer.side,
                share: None,
            });
            let is_in = peer.side != Side::Other || task.input.is_ordinary();
            if is_in && peer.search.is_some() {
                runners.push(Runner::new(peer, memory));
            }
        }

        // The better of two sums is the limit.
        let sum = |fetch| {
            let begun = Instant::now();
            std::hint::black_box(peers::sum(memory, has_avx512, fetch));
            float(memory.len()) / begun.elapsed().as_secs_f64()
        };
        let best = |fetch| (0..3).map(|_| sum(fetch)).fold(0.0, f64::max);
        let fetch = best(true) > best(false);

        // Others use this machine, too. So each time is compared with the limit of the same moment,
        // and the median of the rounds counts.
        let mut limits = Vec::new();
        for _ in 0..task.rounds {
            for neighbours in runners.chunks_mut(2) {
                let limit = sum(fetch);
                limits.push(limit);
                for runner in neighbours {
                    runner.measure(limit);
                }
            }
        }

        let wrong = wrong(&runners);
        for runner in runners {
            let cell = cells.iter_mut().find(|cell| cell.name == runner.peer.name);
            if let Some(cell) = cell {
                cell.share = Some(middle(runner.shares));
            }
        }
        Self {
            task,
            limit: middle(limits),
            cells,
            wrong,
        }
    }

    /// Returns the line with the names of the columns.
    pub(crate) fn head(peers: &[Peer]) -> String {
        let mut line = format!("{:<11} {:>5}", "", "");
        for peer in peers {
            let _ = write!(line, " {:>WIDTH$}", peer.name);
        }
        format!("{line} {:>13} {:>10}", "goals", "limit GB/s")
    }

    /// Returns the line, for a table with that many peers.
    pub(crate) fn line(&self, columns: usize) -> String {
        let mut line = format!("{:<11} {:>5}", self.task.input.name(), self.task.count);
        for index in 0..columns {
            let share = self.cells.get(index).and_then(|cell| cell.share);
            let share = share.map_or("-".to_owned(), |share| format!("{share:.3}"));
            let _ = write!(line, " {share:>WIDTH$}");
        }
        let goals = self.ours().map(|(engine, _)| match self.goal(engine) {
            Some(goal) => goal.to_string().trim_start_matches('0').to_owned(),
            None => "-".to_owned(),
        });
        let goals = goals.collect::<Vec<_>>().join(" ");
        let _ = write!(line, " {goals:>13} {:>10.1}", self.limit / 1e9);

        let names = |is_it: &dyn Fn(EngineKind, f64) -> bool| {
            let ours = self.ours().filter(|(engine, share)| is_it(*engine, *share));
            let names: Vec<_> = ours.map(|(engine, _)| engine.name()).collect();
            names.join(", ")
        };
        let below = names(&|engine, share| self.goal(engine).is_some_and(|goal| share < goal));
        let behind = names(&|engine, share| self.vectorscan(engine).is_some_and(|vs| share < vs));
        for (word, names) in [("below", below), ("behind", behind)] {
            if !names.is_empty() {
                let _ = write!(line, "  {word}: {names}");
            }
        }
        line
    }

    /// Returns a line on what has failed in this row.
    pub(crate) fn failure(&self) -> Option<String> {
        let mut failures = Vec::new();
        if !self.wrong.is_empty() {
            failures.push(format!("{} found other matches", self.wrong.join(", ")));
        }
        for (engine, share) in self.ours() {
            let goal = self.goal(engine).filter(|goal| share < *goal);
            let wanted = goals::of_vectorscan(self.task.input, engine);
            let better = self.vectorscan(engine).zip(wanted);
            let better = better.filter(|(vs, wanted)| share < vs * wanted);
            let misses = [
                goal.map(|goal| format!("wanted {goal}")),
                better.map(|(vs, _)| format!("vs {vs:.3}")),
            ];
            let misses: Vec<_> = misses.into_iter().flatten().collect();
            if !misses.is_empty() {
                let misses = misses.join(", ");
                failures.push(format!("{} {share:.3} ({misses})", engine.name()));
            }
        }
        let best = self.ours().map(|(_, share)| share).fold(0.0, f64::max);
        for cell in self.cells.iter().filter(|cell| cell.side == Side::Other) {
            if let Some(share) = cell.share.filter(|share| *share >= best) {
                failures.push(format!("{best:.3} ({} {share:.3})", cell.name));
            }
        }
        let Task {
            kind, input, count, ..
        } = self.task;
        let row = format!("{}, {}, {count}", kind.name(), input.name());
        (!failures.is_empty()).then(|| format!("{row}: {}", failures.join("; ")))
    }

    /// Returns the engines with what they reach.
    fn ours(&self) -> impl Iterator<Item = (EngineKind, f64)> + '_ {
        self.cells.iter().filter_map(|cell| match cell.side {
            Side::Ours(engine) => Some((engine, cell.share?)),
            Side::Vectorscan(_) | Side::Other => None,
        })
    }

    fn goal(&self, engine: EngineKind) -> Option<f64> {
        goals::of_limit(self.task.input, self.task.kind, self.task.count, engine)
    }

    /// Returns what vectorscan reaches with the same instructions.
    fn vectorscan(&self, engine: EngineKind) -> Option<f64> {
        let mut cells = self.cells.iter();
        cells
            .find(|cell| cell.side == Side::Vectorscan(engine))?
            .share
    }
}

/// Returns those that find fewer matches in the same memory than others, of those that find all.
fn wrong(runners: &[Runner<'_>]) -> Vec<&'static str> {
    let all = || runners.iter().filter(|runner| runner.peer.finds_all);
    let is_wrong = |runner: &&Runner<'_>| {
        all().any(|other| {
            other.counts.0 > runner.counts.0
                || (other.size() == runner.size() && other.counts.1 > runner.counts.1)
        })
    };
    all()
        .filter(is_wrong)
        .map(|runner| runner.peer.name)
        .collect()
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

/// Returns the median.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[allow(clippy::cast_precision_loss, reason = "far from where that matters")]
fn float(size: usize) -> f64 {
    size as f64
}
