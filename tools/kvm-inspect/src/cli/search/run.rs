// SPDX-License-Identifier: GPL-2.0

//! Searches, and prints what was found.

use std::{
    cell::{Cell, RefCell},
    io::{self, Write},
    iter,
};

use kvm_inspect_pure::{range::Range, uapi};

use super::{
    super::{
        arguments::{Access, Engine},
        bar::watch,
        failure::{Failure, Status},
        terminal::{Look, Terminal},
        vm::Opened,
        Context,
    },
    patterns, verdict, Args, Wanted,
};
use crate::{
    device::{self, only_in_smm, Batch, Error, EveryHit, Found, Hit, Query, Session, MAX_LEASE_MS},
    hexdump::HexDump,
    json,
    report::Conclusion,
};

/// How many hits the first search keeps. The module has room for all of them, and their bytes, in
/// the kernel's memory; few searches find more.
const FIRST_HITS: u32 = 1 << 14;

type Head = json::Search<(), ()>;

/// Makes another search.
type Again<'s, 'a> = Box<dyn FnMut(&[Range]) -> Result<Batch<'a>, Error> + 's>;

pub(in super::super) fn run(args: Args, context: &mut Context) -> Result<Status, Failure> {
    let Wanted { vm, query, most } = args.parse()?;
    let opened = Opened::new(&vm, context)?;
    let searcher = Searcher::new(&opened.session, &query, context.terminal.shows_progress());
    let mut found = searcher.search(&query.ranges)?;
    let mut needs_more = needs_more_than(&found, most);
    if needs_more && searcher.grow(found.figures().hits) {
        found = searcher.search(&query.ranges)?;
        needs_more = needs_more_than(&found, most);
    }
    if needs_more && query.max_pause_ms == uapi::NO_LIMIT {
        return held(&opened, &searcher, most, context);
    }
    let mut head = head(&opened, &query, &found)?;
    if needs_more && found.conclusion() == Some(Conclusion::Ok) {
        // What is searched next is of another instant.
        set_result(&mut head, Conclusion::NotOneInstant);
    }
    let every = RefCell::new(searcher.every(&found, needs_more)?);
    let hits = iter::from_fn(|| every.borrow_mut().next());
    let hits = hits.take(most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(0)));
    let is_cut = || every.borrow().is_cut();
    print(head, hits, &searcher, &is_cut, context)
}

/// Returns whether hits are asked for that a search has not kept.
fn needs_more_than(found: &Found<'_>, most: Option<u64>) -> bool {
    let kept = u64::from(found.figures().kept);
    !found.has_all_hits() && most.is_none_or(|most| most > kept)
}

/// Searches once more while the guest is held: one search cannot keep all hits, but several can be
/// of one instant.
///
/// Hits are kept here meanwhile: a guest must not wait for who reads them.
fn held(
    opened: &Opened,
    searcher: &Searcher<'_>,
    most: Option<u64>,
    context: &mut Context,
) -> Result<Status, Failure> {
    let query = searcher.query;
    searcher.begin_anew();
    let hold = opened
        .session
        .hold(MAX_LEASE_MS, query.freeze_timeout_ms, query.late)?;
    let found = searcher.search(&query.ranges)?;
    let mut head = head(opened, query, &found)?;
    let mut every = searcher.every(&found, true)?;
    let most = most.map_or(usize::MAX, |most| {
        usize::try_from(most).unwrap_or(usize::MAX)
    });
    let hits = every.by_ref().take(most).collect::<Result<Vec<_>, _>>()?;
    let is_cut = every.is_cut();
    let freeze_ns = hold.freeze_ns();
    let released = hold.release()?;
    head.done.freeze_us = freeze_ns / 1000;
    head.done.pause_us = released.pause_ns / 1000;
    head.done.paused_us = head.done.pause_us;
    if released.is_expired {
        searcher.worst.set(Some(Conclusion::NotOneInstant));
    }
    if let Some(worst) = searcher.worst.get() {
        set_result(&mut head, worst);
    }
    print(
        head,
        hits.into_iter().map(Ok),
        searcher,
        &|| is_cut,
        context,
    )
}

/// Makes the searches of one command.
struct Searcher<'a> {
    session: &'a Session,
    query: &'a Query,
    shows_progress: bool,
    /// How many hits a search keeps.
    max_hits: Cell<u32>,
    /// How many searches there were.
    searches: Cell<u32>,
    /// A result that is not `ok`, if there was one.
    worst: Cell<Option<Conclusion>>,
}

impl<'a> Searcher<'a> {
    fn new(session: &'a Session, query: &'a Query, shows_progress: bool) -> Self {
        Self {
            session,
            query,
            shows_progress,
            max_hits: Cell::new(query.max_hits.min(FIRST_HITS)),
            searches: Cell::new(0),
            worst: Cell::new(None),
        }
    }

    /// Forgets the searches so far: their hits are found again.
    fn begin_anew(&self) {
        self.searches.set(0);
        self.worst.set(None);
    }

    /// Has the next search keep this many hits and some more, for there may be more by then, but
    /// not more than are asked for. Returns whether that is more than before.
    fn grow(&self, hits: u64) -> bool {
        let some = hits.saturating_add(hits / 8);
        let room = u32::try_from(some)
            .unwrap_or(u32::MAX)
            .min(self.query.max_hits);
        let grows = room > self.max_hits.get();
        if grows {
            self.max_hits.set(room);
            self.begin_anew();
        }
        grows
    }

    fn search(&self, ranges: &[Range]) -> Result<Found<'a>, Error> {
        let query = Query {
            ranges: ranges.to_vec(),
            max_hits: self.max_hits.get(),
            ..self.query.clone()
        };
        let found = watch(self.shows_progress, self.session, || {
            self.session.search(&query)
        })?;
        self.searches.set(self.searches.get().saturating_add(1));
        let conclusion = found.conclusion();
        if Status::of(conclusion) == Status::Incomplete && self.worst.get().is_none() {
            self.worst
                .set(conclusion.or(Some(Conclusion::NotOneInstant)));
        }
        Ok(found)
    }

    /// Returns all hits, from those of a search on.
    fn every<'s>(
        &'s self,
        first: &Found<'a>,
        needs_more: bool,
    ) -> Result<EveryHit<'a, Again<'s, 'a>>, Error> {
        let smm = if needs_more {
            only_in_smm(&first.slots()?)
        } else {
            Vec::new()
        };
        let first = Batch {
            hits: Box::new(first.hits()),
            // No other search is wanted.
            is_whole: !needs_more,
        };
        let again: Again<'s, 'a> = Box::new(|ranges| {
            let found = self.search(ranges)?;
            Ok(Batch {
                hits: Box::new(found.hits()),
                is_whole: found.has_all_hits(),
            })
        });
        Ok(EveryHit::new(first, &self.query.ranges, &smm, again))
    }
}

/// Returns all but the hits. To be called before another search.
fn head(opened: &Opened, query: &Query, found: &Found<'_>) -> Result<Head, Error> {
    let figures = found.figures();
    let conclusion = found.conclusion();
    let slots = found.slots()?;
    let lost = slots
        .iter()
        .filter(|slot| slot.flags & uapi::SLOT_LOST != 0);
    let uncovered = found.uncovered()?;
    let is_left = conclusion == Some(Conclusion::TimeUp);
    Ok(json::Search {
        json_version: json::Version,
        vm: opened.json(),
        pattern: patterns::describe(&query.patterns),
        range: query.ranges.iter().map(json::Range::new).collect(),
        done: json::Done {
            result: verdict::words(conclusion).0.to_owned(),
            engine: Engine::name(figures.engine).to_owned(),
            access: Access::name(figures.access).to_owned(),
            ..json::Done::new(figures)
        },
        memory: json::Pages::new(found.kinds().into_iter().collect()),
        vcpu: found.vcpus()?.iter().map(json::Vcpu::new).collect(),
        slot: slots.iter().map(json::Slot::of_search).collect(),
        left: is_left.then_some(json::Place {
            address_space: figures.left_address_space,
            gpa: figures.left_gpa,
        }),
        lost: lost.map(json::Stretch::of_slot).collect(),
        uncovered: uncovered.iter().map(json::Stretch::new).collect(),
        hit: (),
        end: (),
    })
}

fn set_result(head: &mut Head, conclusion: Conclusion) {
    verdict::words(Some(conclusion))
        .0
        .clone_into(&mut head.done.result);
}

/// Prints the head and then the hits, while they are found.
fn print(
    head: Head,
    hits: impl Iterator<Item = Result<Hit, Error>>,
    searcher: &Searcher<'_>,
    is_cut: &dyn Fn() -> bool,
    context: &mut Context,
) -> Result<Status, Failure> {
    let printed = Cell::new(0_u64);
    let hits = hits.inspect(|hit| {
        if hit.is_ok() {
            printed.set(printed.get().saturating_add(1));
        }
    });
    let result = head.done.result.clone();
    let terminal = &mut context.terminal;
    let written = if context.json {
        let hits = hits.map(|hit| hit.map(|hit| json::Hit::new(&hit)));
        let end = json::Later::new(|| json::End {
            printed: printed.get(),
            searches: searcher.searches.get(),
            is_cut: is_cut(),
        });
        let object = head.with(json::Stream::new(hits), end);
        json::write(terminal.out(), &object).map_err(Failure::from)
    } else {
        print_text(&head, hits, terminal)
    };
    match written {
        // The verdict was the first that it has read.
        Ok(()) | Err(Failure::BrokenPipe) => {}
        Err(failure) => return Err(failure),
    }
    if is_cut() {
        terminal.note("hits are missing, because there are too many; search in smaller ranges");
    }
    let is_done = ["ok", "no_pattern"].contains(&result.as_str());
    let is_whole = is_done && searcher.worst.get().is_none() && !is_cut();
    if !is_whole && terminal.is_quiet() {
        // Also then: who sees no hit must not believe that there is none.
        let _ = writeln!(io::stderr(), "kvm-inspect: result={result}");
    }
    Ok(if is_whole {
        Status::Done
    } else {
        Status::Incomplete
    })
}

fn print_text(
    head: &Head,
    hits: impl Iterator<Item = Result<Hit, Error>>,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    if !terminal.is_quiet() {
        let conclusion = head.done.result.parse().ok();
        let (word, meaning) = verdict::words(conclusion);
        let look = match Status::of(conclusion) {
            Status::Done => Look::Good,
            Status::Incomplete => Look::Bad,
        };
        let word = terminal.paint(look, format!("result={word}"));
        writeln!(terminal.out(), "{word}: {meaning}")?;
        for line in verdict::details(head) {
            writeln!(terminal.out(), "{line}")?;
        }
    }
    let mut hits = hits.peekable();
    if hits.peek().is_some() {
        terminal.heading(&format!(
            "{:>14}  {:>7}  {:>2}  {:>5}  {:>18}",
            "GPA", "PATTERN", "AS", "SLOT", "HVA"
        ))?;
    }
    for hit in hits {
        print_hit(terminal.out(), &hit?)?;
    }
    terminal.flush()
}

fn print_hit(out: &mut impl Write, hit: &device::Hit) -> Result<(), Failure> {
    let Hit {
        address_space,
        gpa,
        pattern,
        slot,
        hva,
        ..
    } = hit;
    writeln!(
        out,
        "{gpa:>#14x}  {pattern:>7}  {address_space:>2}  {slot:>5}  {hva:>#18x}"
    )?;
    if !hit.bytes.is_empty() {
        let mut dump = HexDump::new(out);
        dump.bytes(gpa.wrapping_sub(hit.before.into()), &hit.bytes)?;
        dump.finish()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_has_a_line_and_its_bytes() {
        let hit = Hit {
            address_space: 0,
            gpa: 0xffd_df21,
            pattern: 1,
            slot: 2,
            hva: 0x7efc_c3dd_df21,
            before: 1,
            bytes: b"\x1bsecret".to_vec(),
        };
        let mut text = Vec::new();
        print_hit(&mut text, &hit).expect("written");
        let text = String::from_utf8(text).expect("UTF-8");
        let (line, dump) = text.split_once('\n').expect("lines");
        assert_eq!(
            line,
            "     0xffddf21        1   0      2      0x7efcc3dddf21"
        );
        assert!(dump.starts_with("00000ffddf20  1b 73 65"), "{dump}");
        assert!(dump.ends_with("|.secret|\n"), "{dump}");
    }

    #[test]
    fn json_has_the_verdict_before_the_hits() {
        let hit = Hit {
            address_space: 0,
            gpa: 0x1000,
            pattern: 0,
            slot: 0,
            hva: 0x2000,
            before: 0,
            bytes: Vec::new(),
        };
        let hits = json::Stream::new(iter::once(Ok::<_, Error>(json::Hit::new(&hit))));
        let end = json::Later::new(|| json::End {
            printed: 1,
            searches: 1,
            is_cut: false,
        });
        let mut text = Vec::new();
        let head = verdict::tests::search();
        json::write(&mut text, &head.clone().with(hits, end)).expect("written");
        let read: json::Search = serde_json::from_slice(&text).expect("an object");
        assert_eq!((read.done, read.memory), (head.done, head.memory));
        assert_eq!(read.hit, [json::Hit::new(&hit)]);
        assert_eq!(read.end.printed, 1);
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(text.find("\"done\"") < text.find("\"hit\""));
    }
}
