// SPDX-License-Identifier: GPL-2.0

//! One row of the results: all peers with the same patterns in the same memory.

use std::{fmt::Write as _, time::Instant};

use kvm_inspect_pure::scan::EngineKind;

use crate::{
    goals,
    inputs::Input,
    patterns::Kind,
    peers::{self, Peer, Side},
    runner::{float, Runner},
};

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
    /// The peers that miss matches.
    wrong: Vec<&'static str>,
    /// Whether one of them is ours, or all others are.
    has_failed: bool,
}

struct Cell {
    name: &'static str,
    side: Side,
    /// The share of the limit, if it can take the patterns.
    share: Option<f64>,
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

        let (ours, others): (Vec<_>, Vec<_>) = runners
            .iter()
            .filter(|runner| runner.peer.finds_all)
            .partition(|runner| matches!(runner.peer.side, Side::Ours(_)));
        let is_wrong = |runner: &&Runner<'_>| runner.misses_matches(&runners);
        let has_failed =
            ours.iter().any(is_wrong) || (!others.is_empty() && others.iter().all(is_wrong));
        let all = ours.iter().chain(&others).filter(|runner| is_wrong(runner));
        let wrong = all.map(|runner| runner.peer.name).collect();
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
            has_failed,
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
        let wrong = self.wrong.join(", ");
        for (word, names) in [
            ("below", below),
            ("behind", behind),
            ("miss matches", wrong),
        ] {
            if !names.is_empty() {
                let _ = write!(line, "  {word}: {names}");
            }
        }
        line
    }

    /// Returns a line on what has failed in this row.
    pub(crate) fn failure(&self) -> Option<String> {
        let mut failures = Vec::new();
        if self.has_failed {
            failures.push(format!("{} miss matches", self.wrong.join(", ")));
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

/// Returns the median.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
