// SPDX-License-Identifier: GPL-2.0

//! `kvm-inspect search`: patterns in the guest's memory.

mod patterns;
mod run;
mod verdict;

use std::{ffi::OsString, os::unix::ffi::OsStrExt, path::PathBuf};

use kvm_inspect_pure::{range::Range, uapi};

pub(super) use self::run::run;
use super::{
    arguments::{range, Access, Engine, FreezeArgs},
    failure::Failure,
    units::milliseconds,
};
use crate::{
    device::{Query, MAX_HITS},
    host::Selection,
};

const EXAMPLES: &str = "\
Examples:
  kvm-inspect search 'text:BEGIN RSA'
  kvm-inspect search 812 'itext:password=' --context 32
  kvm-inspect search 812 'hex:48 8b ?? 4?' --range 0x1000000-0x1ffffff
  kvm-inspect search --name web --file iocs.txt --one-pause --json > hits.json

Patterns:
  text:TEXT    these bytes               itext:TEXT    ASCII letters of either case
  utf16:TEXT   in little-endian UTF-16   iutf16:TEXT   ASCII letters of either case
  hex:DIGITS   two digits a byte, spaces between bytes if you like; ? is any digit
  In all but hex: \\s is a space, \\\\ a backslash, \\xHH a byte.

Exit status: 0 if everything that has content was searched, as it was in one instant, with hits or
without; 3 if something is missing: the first line says what.";

const USAGE: &str = "kvm-inspect search [OPTIONS] [VM] <PATTERN>...";

/// Searches the guest's memory
///
/// The guest stands in pauses of at most a second, unless you say otherwise; what changes between
/// them is searched again. The output begins with the verdict: result=ok, or what is missing and
/// why. All hits follow, ordered by address. Ctrl-C ends the search, and the guest goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = USAGE)]
pub(super) struct Args {
    /// The VM, if there is more than one, and then what to search for: up to 4096 patterns
    #[arg(value_name = "PATTERN")]
    patterns: Vec<OsString>,
    /// The VM with this name, as `list` has it
    #[arg(short, long, value_name = "NAME")]
    name: Option<OsString>,
    /// Take patterns from a file, one a line, or with - from standard input; empty lines and those
    /// that begin with # are left out
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Search these guest-physical addresses only: FIRST-LAST, both included, or FIRST+SIZE
    #[arg(short, long, value_name = "RANGE", value_delimiter = ',', value_parser = range)]
    range: Vec<Range>,
    /// Show each hit's bytes, and up to this many on each side of it
    #[arg(short, long, value_name = "BYTES", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=64))]
    context: u32,
    /// Show this many hits, those at the lowest addresses; all are counted [default: all]
    #[arg(short, long, value_name = "N")]
    max_hits: Option<u64>,
    /// The longest pause, such as 200ms or 2s [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    max_pause: Option<u32>,
    /// Search all in one pause, as long as it takes
    #[arg(long, conflicts_with = "max_pause")]
    one_pause: bool,
    #[command(flatten)]
    freeze: FreezeArgs,
    /// How many threads search at most [default: one for each CPU, up to 16]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=16))]
    threads: u32,
    /// What scans memory
    #[arg(long, value_enum, default_value = "best")]
    engine: Engine,
    /// How pages are read
    #[arg(long, value_enum, default_value = "linear")]
    access: Access,
    /// Bring in, before the first pause, what is swapped out or in a file
    #[arg(long)]
    bring_in: bool,
}

/// A search as it was asked for.
#[derive(Debug)]
struct Wanted {
    vm: Selection,
    query: Query,
    /// How many hits to show.
    most: Option<u64>,
}

impl Args {
    /// Checks what is asked for.
    fn parse(self) -> Result<Wanted, Failure> {
        let (vm, words) = split(&self.patterns, self.name)?;
        let mut patterns: Vec<Vec<u8>> =
            words.iter().map(|word| word.as_bytes().to_vec()).collect();
        for file in &self.file {
            patterns::read(file, &mut patterns)?;
        }
        patterns::check(&patterns)?;
        let most = self.max_hits;
        let max_hits = most
            .and_then(|most| u32::try_from(most).ok())
            .unwrap_or(u32::MAX);
        let query = Query {
            patterns,
            ranges: self.range,
            max_hits: max_hits.min(MAX_HITS),
            context: self.context,
            late: self.freeze.late(),
            bring_in: self.bring_in,
            freeze_timeout_ms: self.freeze.timeout_ms(),
            max_pause_ms: if self.one_pause {
                uapi::NO_LIMIT
            } else {
                self.max_pause.unwrap_or(0)
            },
            threads: self.threads,
            engine: self.engine.number(),
            access: self.access.number(),
        };
        Ok(Wanted { vm, query, most })
    }
}

/// Tells a VM from the patterns after it: no pattern is a number.
fn split(words: &[OsString], name: Option<OsString>) -> Result<(Selection, &[OsString]), Failure> {
    let vm = words
        .first()
        .and_then(|first| first.to_str()?.parse::<Selection>().ok());
    match (vm, words, name) {
        (Some(_), _, Some(_)) => Err(Failure::Usage(
            "the VM is given by number and by name; give one of them".to_owned(),
        )),
        (Some(vm), [_, patterns @ ..], None) => Ok((vm, patterns)),
        (_, patterns, Some(name)) => Ok((Selection::Name(name), patterns)),
        (_, patterns, None) => Ok((Selection::Only, patterns)),
    }
}

/// Returns the word of a result.
#[cfg(test)]
pub(super) const fn word(conclusion: Option<crate::report::Conclusion>) -> &'static str {
    verdict::words(conclusion).0
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(arguments: &[&str]) -> Result<Wanted, Failure> {
        let line = Line::try_parse_from([&["search"], arguments].concat()).expect("arguments");
        line.args.parse()
    }

    fn refused(arguments: &[&str]) -> String {
        match parse(arguments) {
            Err(Failure::Usage(line)) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_vm_may_come_before_patterns() {
        let wanted = parse(&["812-9", "text:a", "hex:00"]).expect("arguments");
        assert_eq!(wanted.vm, Selection::PidFd(812, 9));
        assert_eq!(
            wanted.query.patterns,
            [b"text:a".to_vec(), b"hex:00".to_vec()]
        );
        let wanted = parse(&["text:a", "--name", "web"]).expect("arguments");
        assert_eq!(wanted.vm, Selection::Name("web".into()));
        let wanted = parse(&["text:a b, c"]).expect("arguments");
        assert_eq!(wanted.vm, Selection::Only);
        assert_eq!(wanted.query.patterns, [b"text:a b, c"]);
    }

    #[test]
    fn options_become_a_query() {
        let query = parse(&["text:a"]).expect("arguments").query;
        let default = Query {
            patterns: vec![b"text:a".to_vec()],
            max_hits: MAX_HITS,
            ..Query::default()
        };
        assert_eq!(query, default);
        let all = "text:a --range 0-1,4K+4K --range 9-9 --context 8 --max-hits 5 --one-pause \
                   --late report --freeze-timeout 2s --threads 3 --engine avx2 --access copy \
                   --bring-in";
        let all: Vec<&str> = all.split_whitespace().collect();
        let wanted = parse(&all).expect("arguments");
        assert_eq!(wanted.most, Some(5));
        let query = wanted.query;
        assert_eq!(query.ranges.len(), 3);
        assert_eq!((query.context, query.max_hits, query.threads), (8, 5, 3));
        assert_eq!(
            (query.max_pause_ms, query.freeze_timeout_ms),
            (uapi::NO_LIMIT, 2000)
        );
        assert_eq!(
            (query.engine, query.access),
            (uapi::ENGINE_AVX2, uapi::ACCESS_COPY)
        );
        assert!(query.bring_in && query.late == crate::device::Late::Report);
        let query = parse(&["text:a", "--max-pause", "200ms"])
            .expect("arguments")
            .query;
        assert_eq!(query.max_pause_ms, 200);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(refused(&[]).contains("no pattern; "));
        assert!(refused(&["812"]).contains("no pattern; "));
        assert!(refused(&["812", "text:a", "--name", "x"]).contains("; give one"));
        let line = refused(&["text:a", "secret"]);
        assert!(
            line.starts_with("pattern 1: the kind of pattern is not known; begin"),
            "{line}"
        );
        assert!(refused(&["hex:4"]).contains("one hex digit; "));
    }
}
