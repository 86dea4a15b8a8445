// SPDX-License-Identifier: GPL-2.0

//! Compares the speed of the search with the speed at which this machine reads memory, and with
//! other searches, on buffers far larger than the caches. `docs/performance.md` explains the
//! results.

mod inputs;
mod patterns;
mod peers;

use std::{
    env,
    fmt::Write as _,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use inputs::Input;
use kvm_inspect_pure::scan::EngineKind;
use patterns::SETS;
use peers::Peer;

/// How often each peer searches in each row.
const ROUNDS: usize = 9;

/// The longest time for one search. Slow peers get less memory.
const LONG: Duration = Duration::from_millis(400);

/// The least memory that is searched, still far larger than the caches.
const LEAST: usize = 64 << 20;

const EXPLANATION: &str = "\
Speed, as a share of the speed at which this machine reads memory (a vector sum). First the memory
and the number of patterns, then the search with each engine of this CPU, then others with the same
patterns; `goal` is what the best engine must reach.
";

fn main() -> ExitCode {
    match bench() {
        Ok(failures) if failures.is_empty() => {
            println!("bench: PASS");
            ExitCode::SUCCESS
        }
        Ok(failures) => {
            println!("bench: FAIL {}", failures.join("; "));
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("bench: FAIL {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures all rows. Returns what has failed in them.
fn bench() -> std::io::Result<Vec<String>> {
    let mut arguments = env::args().skip(1);
    let image = arguments.next().unwrap_or_default();
    let size = arguments.next().and_then(|mib| mib.parse().ok());
    let image = inputs::image(Path::new(&image))?;
    let mut memory = inputs::memory(size.unwrap_or(1024_usize).max(64) << 20)?;

    println!("{EXPLANATION}");
    let mut failures = Vec::new();
    for input in Input::ALL {
        for count in SETS {
            let patterns = patterns::first(count);
            let mut peers = peers::all(&patterns);
            if count == SETS[0] && input == Input::ALL[0] {
                print_head(&peers);
            }
            input.fill(&mut memory, &image, &patterns);
            let row = Row::measure(&memory, &mut peers);
            println!("{}", row.line(input, count, &peers));
            failures.extend(row.failure(input, count, &peers));
        }
    }
    println!();
    Ok(failures)
}

fn print_head(peers: &[Peer]) {
    let mut line = format!("{:<12} {:>4}", "", "");
    for peer in peers {
        let _ = write!(line, " {:>9}", peer.name);
    }
    println!("{line} {:>7} {:>10}", "goal", "limit GB/s");
}

/// The results of a row.
struct Row {
    /// The speed of memory, in bytes a second.
    limit: f64,
    /// The share of it that each peer reaches.
    shares: Vec<f64>,
    /// The peers that find other matches than the rest.
    wrong: Vec<&'static str>,
}

impl Row {
    fn measure(memory: &[u8], peers: &mut [Peer]) -> Self {
        let has_avx512 =
            kvm_inspect_pure::engines().any(|engine| engine.kind() == EngineKind::Avx512);
        let part = &memory[..LEAST];
        // Slow peers get less memory. This also counts each peer's matches, in the same memory.
        let mut counts = Vec::new();
        let mut sizes = Vec::new();
        for peer in &mut *peers {
            let begun = Instant::now();
            counts.push((peer.search)(part));
            let share = LONG.as_secs_f64() / begun.elapsed().as_secs_f64();
            sizes.push(if share > 16.0 { memory.len() } else { LEAST });
        }
        let all = peers.iter().zip(&counts).filter(|(peer, _)| peer.finds_all);
        let most = counts.iter().max().copied().unwrap_or(0);
        let wrong = all.filter(|(_, count)| **count != most);
        let wrong = wrong.map(|(peer, _)| peer.name).collect();

        // The better of two sums is the limit.
        let sum = |part: &[u8], fetch| seconds(|| peers::sum(part, has_avx512, fetch));
        let best = |fetch| (0..3).map(|_| sum(memory, fetch)).fold(f64::MAX, f64::min);
        let fetch = best(true) < best(false);

        // Others use this machine, too. So each time is compared with the limit of the same moment,
        // and the median of the rounds counts.
        let mut limits = Vec::new();
        let mut shares = vec![Vec::new(); peers.len()];
        for _ in 0..ROUNDS {
            for ((peer, size), shares) in peers.iter_mut().zip(&sizes).zip(&mut shares) {
                let part = &memory[..*size];
                let limit = sum(part, fetch);
                limits.push(bytes(part) / limit);
                shares.push(limit / seconds(|| (peer.search)(part)));
            }
        }
        Self {
            limit: middle(limits),
            shares: shares.into_iter().map(middle).collect(),
            wrong,
        }
    }

    fn line(&self, input: Input, count: usize, peers: &[Peer]) -> String {
        let mut line = format!("{:<12} {count:>4}", input.name());
        for (share, _) in self.shares.iter().zip(peers) {
            let _ = write!(line, " {share:>9.3}");
        }
        let goal = input
            .goal(count)
            .map_or(String::new(), |goal| goal.to_string());
        format!("{line} {goal:>7} {:>10.1}", self.limit / 1e9)
    }

    /// Returns what has failed in this row.
    fn failure(&self, input: Input, count: usize, peers: &[Peer]) -> Option<String> {
        let shares = || self.shares.iter().zip(peers);
        let best = |ours| {
            let of = shares().filter(|(_, peer)| peer.is_ours == ours);
            of.fold((0.0, ""), |best: (f64, &str), (share, peer)| {
                if *share > best.0 {
                    (*share, peer.name)
                } else {
                    best
                }
            })
        };
        let ((ours, _), (others, name)) = (best(true), best(false));
        let row = format!("{}, {count} patterns:", input.name());
        if !self.wrong.is_empty() {
            return Some(format!(
                "{row} {} found other matches",
                self.wrong.join(", ")
            ));
        }
        if let Some(goal) = input.goal(count).filter(|goal| ours < *goal) {
            return Some(format!("{row} {ours:.3} of the limit, wanted {goal}"));
        }
        (ours <= others).then(|| format!("{row} {ours:.3}, behind {name} with {others:.3}"))
    }
}

/// Returns the median.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn seconds(work: impl FnOnce() -> u64) -> f64 {
    let begun = Instant::now();
    std::hint::black_box(work());
    begun.elapsed().as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "far from where that matters")]
fn bytes(memory: &[u8]) -> f64 {
    memory.len() as f64
}
