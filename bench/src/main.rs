// SPDX-License-Identifier: GPL-2.0

//! Compares the speed of the search with the speed at which this machine reads memory, and with
//! other searches, on buffers far larger than the caches. `docs/performance.md` explains the
//! results.

mod goals;
mod inputs;
mod patterns;
mod peers;
mod row;
mod runner;

use std::{io, path::PathBuf, process::ExitCode};

use clap::Parser;
use inputs::Input;
use kvm_inspect_pure::scan::MAX_PATTERNS;
use memmap2::MmapMut;
use patterns::{Kind, Sets};
use row::{Row, Task};

const EXPLANATION: &str = "\
Speed, as a share of the speed at which this machine reads memory (a vector sum): a table for each
kind of patterns. First the memory and the number of patterns, then the search with each engine of
this CPU beside vectorscan (vs) with the same instructions, then others. `goals` are what the
engines must reach. At the end, a row says which of them are below their goal or behind vectorscan.
";

/// Compares the speed of the search with that of memory, and of other searches.
#[derive(Parser)]
struct Options {
    /// The RAM of a guest
    image: PathBuf,
    /// MiB of memory to search
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..4096))]
    mib: u32,
    /// Only these kinds of patterns, by parts of their names
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    kind: Vec<String>,
    /// Only these kinds of memory, by parts of their names
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    input: Vec<String>,
    /// These numbers of patterns instead of the usual ones
    #[arg(long, value_delimiter = ',', value_parser = count)]
    count: Vec<usize>,
    /// Patterns from a file, one a line
    #[arg(long, value_name = "FILE")]
    patterns: Option<PathBuf>,
    /// How often each peer searches in each row; at most three times in memory made to be slow
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok();
    count
        .filter(|count| (1..=MAX_PATTERNS).contains(count))
        .ok_or(format!("give 1 to {MAX_PATTERNS}"))
}

impl Options {
    /// Returns the sets that are asked for: all that are drawn, or those of the file.
    fn sets(&self) -> io::Result<Vec<Sets>> {
        let file = self.patterns.as_deref();
        let file = file.map(|path| Sets::read(path, &self.count)).transpose()?;
        let drawn = Kind::DRAWN.into_iter().filter(|kind| match &self.kind[..] {
            [] => file.is_none(),
            names => is_named(names, kind.name()),
        });
        let drawn = drawn.map(|kind| Sets::draw(kind, &self.count));
        Ok(drawn.collect::<Vec<_>>().into_iter().chain(file).collect())
    }

    /// Returns how often each peer searches. Goals for made memory are far from what is usual.
    fn rounds(&self, input: Input) -> u16 {
        if input.is_ordinary() {
            self.rounds
        } else {
            self.rounds.min(3)
        }
    }

    /// Returns whether a row is asked for.
    fn has(&self, input: Input, kind: Kind, patterns: usize) -> bool {
        let is_chosen = !self.count.is_empty() || kind == Kind::File;
        let is_named = self.input.is_empty() || is_named(&self.input, input.name());
        is_named && (is_chosen || input.has(kind, patterns))
    }
}

/// Returns whether one of `names` is part of `name`.
fn is_named(names: &[String], name: &str) -> bool {
    names.iter().any(|part| name.contains(part.as_str()))
}

fn main() -> ExitCode {
    match bench(&Options::parse()) {
        Ok(failures) if failures.is_empty() => {
            println!("bench: PASS");
            ExitCode::SUCCESS
        }
        Ok(failures) => {
            println!("Missed:");
            for failure in &failures {
                println!("  {failure}");
            }
            println!("bench: FAIL {} rows", failures.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("bench: FAIL {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures all rows. Returns what has failed in them.
fn bench(options: &Options) -> io::Result<Vec<String>> {
    let sets = options.sets()?;
    let image = inputs::image(&options.image)?;
    let mut memory = inputs::memory(usize::try_from(options.mib).map_err(io::Error::other)? << 20)?;

    println!("{EXPLANATION}");
    let (mut failures, mut rows) = (Vec::new(), 0);
    for sets in &sets {
        let measured = table(options, sets, &image, &mut memory);
        rows += measured.len();
        failures.extend(measured.iter().filter_map(Row::failure));
    }
    if rows == 0 {
        return Err(io::Error::other("no row has these names"));
    }
    Ok(failures)
}

/// Measures and prints the rows of one kind of patterns.
fn table(options: &Options, sets: &Sets, image: &[u8], memory: &mut MmapMut) -> Vec<Row> {
    let mut peers = peers::all(sets.kind, &sets.sets);
    println!("{}", sets.kind.name());
    println!(
        "{}",
        peers
            .first()
            .map_or(String::new(), |peers| Row::head(peers))
    );

    let columns = peers.first().map_or(0, Vec::len);
    let mut rows = Vec::new();
    for input in Input::ALL {
        let mut is_filled = false;
        for (set, peers) in sets.sets.iter().zip(&mut peers) {
            if !options.has(input, sets.kind, set.len()) {
                continue;
            }
            if !is_filled || !input.is_ordinary() {
                input.fill(memory, image, set);
                is_filled = true;
            }
            let task = Task {
                kind: sets.kind,
                input,
                count: set.len(),
                rounds: options.rounds(input).into(),
            };
            let row = Row::measure(task, memory, peers);
            println!("{}", row.line(columns));
            rows.push(row);
        }
    }
    println!();
    rows
}
