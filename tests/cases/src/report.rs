// SPDX-License-Identifier: GPL-2.0

//! The module's report, read strictly: a line or a key that is not known fails the case.

use std::collections::BTreeMap;

/// The report on one VM.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) pid: i32,
    pub(crate) fd: Option<i32>,
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) hits: Vec<Hit>,
    /// Where the search ended when time was up: address space, slot, GPA.
    pub(crate) left: Option<(u16, u16, u64)>,
    /// What is not covered in one instant: address space, slot, first and last GPA.
    pub(crate) uncovered: Vec<(u16, u16, (u64, u64))>,
    pub(crate) done: Done,
}

/// Where the registers of a vCPU come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It stood at the entry of `KVM_RUN`.
    Parked,
    /// Its thread was elsewhere, or there was none.
    Outside,
}

/// One vCPU.
#[derive(Debug)]
pub(crate) struct Vcpu {
    pub(crate) id: u64,
    pub(crate) state: State,
    /// `mode`, `paging` and `cpl`, of a parked vCPU.
    pub(crate) mode: Option<(String, String, u64)>,
    pub(crate) general: BTreeMap<String, u64>,
    pub(crate) control: BTreeMap<String, u64>,
    pub(crate) segments: BTreeMap<String, BTreeMap<String, u64>>,
    pub(crate) tables: BTreeMap<String, (u64, u64)>,
}

/// One memslot. Addresses are those of the first and the last byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) space: u16,
    pub(crate) id: u16,
    pub(crate) gpa: (u64, u64),
    pub(crate) hva: (u64, u64),
    pub(crate) pages: u64,
    pub(crate) present: u64,
    pub(crate) flags: String,
}

/// One place where a pattern was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hit {
    pub(crate) space: u16,
    pub(crate) gpa: u64,
    pub(crate) pattern: usize,
    pub(crate) slot: u16,
    pub(crate) hva: u64,
    pub(crate) bytes: Option<String>,
}

/// The last line.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) result: String,
    pub(crate) hits: u64,
    pub(crate) scanned_bytes: u64,
    pub(crate) absent_pages: u64,
    pub(crate) freeze_us: u64,
    pub(crate) pause_us: u64,
    pub(crate) private_pages: u64,
    pub(crate) scan_us: u64,
    pub(crate) threads: u64,
    pub(crate) engine: String,
    pub(crate) access: String,
    pub(crate) pauses: u64,
    pub(crate) paused_us: u64,
    pub(crate) rescanned_bytes: u64,
    pub(crate) uncovered_bytes: u64,
}

impl Report {
    /// Reads the module's lines: any number of reports, and the lines that are no part of one.
    pub(crate) fn parse_all(lines: &[String]) -> (Vec<Self>, Vec<String>) {
        let mut reports = Vec::new();
        let mut others = Vec::new();
        let mut rest = lines;
        while let Some((line, after)) = rest.split_first() {
            if line.starts_with("vm ") {
                let end = rest.iter().position(|line| line.starts_with("done "));
                let end = end.unwrap_or_else(|| panic!("a report without an end: {rest:#?}"));
                reports.push(Self::parse(&rest[..=end]));
                rest = &rest[end + 1..];
            } else {
                others.push(line.clone());
                rest = after;
            }
        }
        (reports, others)
    }

    fn parse(lines: &[String]) -> Self {
        let mut vm = None;
        let mut done = None;
        let mut left = None;
        let mut uncovered = Vec::new();
        let (mut vcpus, mut slots, mut hits) = (Vec::new(), Vec::new(), Vec::new());
        for line in lines {
            let mut facts = Facts::parse(line);
            match facts.kind {
                "vm" => {
                    let counts = (facts.number("vcpus"), facts.number("slots"));
                    vm = Some((facts.parsed("pid"), facts.optional("fd"), counts));
                }
                "vcpu" => vcpus.push(Vcpu::parse(&mut facts)),
                "regs" => {
                    let vcpu = vcpu(&mut vcpus, &mut facts);
                    vcpu.general = facts.all();
                }
                "control" => {
                    let vcpu = vcpu(&mut vcpus, &mut facts);
                    vcpu.control = facts.all();
                }
                "segment" => {
                    let vcpu = vcpu(&mut vcpus, &mut facts);
                    let name = facts.text("name");
                    assert!(
                        vcpu.segments.insert(name, facts.all()).is_none(),
                        "twice: {line}"
                    );
                }
                "table" => {
                    let vcpu = vcpu(&mut vcpus, &mut facts);
                    let name = facts.text("name");
                    let table = (facts.number("base"), facts.number("limit"));
                    assert!(vcpu.tables.insert(name, table).is_none(), "twice: {line}");
                }
                "slot" => slots.push(Slot::parse(&mut facts)),
                "hit" => hits.push(Hit::parse(&mut facts)),
                "uncovered" => {
                    uncovered.push((facts.parsed("as"), facts.parsed("slot"), facts.range("gpa")));
                }
                "left" => {
                    left = Some((
                        facts.parsed("as"),
                        facts.parsed("slot"),
                        facts.number("gpa"),
                    ));
                }
                "done" => {
                    let counts = [facts.number("vcpus"), facts.number("slots")];
                    let printed = facts.number("printed");
                    done = Some((Done::parse(&mut facts), counts, printed));
                }
                _ => panic!("a line of no known kind: {line}"),
            }
            facts.end();
        }
        let (pid, fd, (vcpu_count, slot_count)) = vm.expect("it begins with the VM");
        let (done, counts, printed) = done.expect("it ends with the result");
        assert_eq!(counts, [vcpu_count, slot_count], "first and last line");
        assert_eq!(vcpu_count, count(&vcpus), "vCPUs");
        assert_eq!(slot_count, count(&slots), "slots");
        assert_eq!(printed, count(&hits), "printed hits");
        assert!(done.hits >= printed, "{done:?}");
        assert!(done.pause_us >= done.freeze_us, "{done:?}");
        assert!(done.paused_us >= done.pause_us, "{done:?}");
        assert!(done.paused_us >= done.scan_us, "{done:?}");
        assert!(
            hits.is_sorted_by_key(|hit: &Hit| (hit.space, hit.gpa, hit.pattern)),
            "not in order: {hits:#?}"
        );
        assert_eq!(uncovered.is_empty(), done.uncovered_bytes == 0, "{done:?}");
        if matches!(done.result.as_str(), "ok" | "changed") {
            assert_eq!(uncovered.is_empty(), done.result == "ok", "{done:?}");
        }
        if matches!(done.result.as_str(), "ok" | "time_up" | "changed") {
            assert_eq!(
                left.is_some(),
                done.result == "time_up",
                "{left:?} {done:?}"
            );
        }
        Self {
            pid,
            fd,
            vcpus,
            slots,
            hits,
            left,
            uncovered,
            done,
        }
    }

    /// The vCPU with this number.
    pub(crate) fn vcpu(&self, id: u64) -> &Vcpu {
        let vcpu = self.vcpus.iter().find(|vcpu| vcpu.id == id);
        vcpu.unwrap_or_else(|| panic!("no vCPU {id} in the report"))
    }

    /// The states of all vCPUs.
    pub(crate) fn states(&self) -> Vec<State> {
        self.vcpus.iter().map(|vcpu| vcpu.state).collect()
    }

    /// The guest-physical addresses of all hits of one pattern, in the order of the report.
    pub(crate) fn hits_of(&self, pattern: usize) -> Vec<u64> {
        let hits = self.hits.iter().filter(|hit| hit.pattern == pattern);
        hits.map(|hit| hit.gpa).collect()
    }

    /// The pages present in all slots.
    pub(crate) fn present(&self) -> u64 {
        self.slots.iter().map(|slot| slot.present).sum()
    }

    /// The pages of all slots.
    pub(crate) fn pages(&self) -> u64 {
        self.slots.iter().map(|slot| slot.pages).sum()
    }
}

impl Vcpu {
    fn parse(facts: &mut Facts<'_>) -> Self {
        let id = facts.number("id");
        let (state, source) = match facts.text("state").as_str() {
            "parked" => (State::Parked, "kvm_run"),
            "outside" => (State::Outside, "cached"),
            other => panic!("unknown state {other}"),
        };
        assert_eq!(facts.text("source"), source, "source of vCPU {id}");
        let mode = (state == State::Parked).then(|| {
            (
                facts.text("mode"),
                facts.text("paging"),
                facts.number("cpl"),
            )
        });
        Self {
            id,
            state,
            mode,
            general: BTreeMap::new(),
            control: BTreeMap::new(),
            segments: BTreeMap::new(),
            tables: BTreeMap::new(),
        }
    }
}

impl Slot {
    fn parse(facts: &mut Facts<'_>) -> Self {
        Self {
            space: facts.parsed("as"),
            id: facts.parsed("id"),
            gpa: facts.range("gpa"),
            hva: facts.range("hva"),
            pages: facts.number("pages"),
            present: facts.number("present"),
            flags: facts.text("flags"),
        }
    }
}

impl Hit {
    fn parse(facts: &mut Facts<'_>) -> Self {
        Self {
            space: facts.parsed("as"),
            gpa: facts.number("gpa"),
            pattern: facts.parsed("pattern"),
            slot: facts.parsed("slot"),
            hva: facts.number("hva"),
            bytes: facts.values.remove("bytes").map(str::to_owned),
        }
    }
}

impl Done {
    fn parse(facts: &mut Facts<'_>) -> Self {
        Self {
            result: facts.text("result"),
            hits: facts.number("hits"),
            scanned_bytes: facts.number("scanned_bytes"),
            absent_pages: facts.number("absent_pages"),
            freeze_us: facts.number("freeze_us"),
            pause_us: facts.number("pause_us"),
            private_pages: facts.number("private_pages"),
            scan_us: facts.number("scan_us"),
            threads: facts.number("threads"),
            engine: facts.text("engine"),
            access: facts.text("access"),
            pauses: facts.number("pauses"),
            paused_us: facts.number("paused_us"),
            rescanned_bytes: facts.number("rescanned_bytes"),
            uncovered_bytes: facts.number("uncovered_bytes"),
        }
    }
}

/// The vCPU that a line belongs to, which is the one that was named last.
fn vcpu<'a>(vcpus: &'a mut [Vcpu], facts: &mut Facts<'_>) -> &'a mut Vcpu {
    let id = facts.number("vcpu");
    let vcpu = vcpus.last_mut().filter(|vcpu| vcpu.id == id);
    vcpu.unwrap_or_else(|| panic!("not the vCPU of the lines before: {}", facts.line))
}

fn count<T>(things: &[T]) -> u64 {
    u64::try_from(things.len()).expect("a small number")
}

/// One line: its kind, and what it says.
struct Facts<'a> {
    line: &'a str,
    kind: &'a str,
    values: BTreeMap<&'a str, &'a str>,
}

impl<'a> Facts<'a> {
    fn parse(line: &'a str) -> Self {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let mut values = BTreeMap::new();
        for word in words {
            let fact = word.split_once('=');
            let (key, value) = fact.unwrap_or_else(|| panic!("no key=value: {word:?} in {line}"));
            assert!(values.insert(key, value).is_none(), "{key} twice in {line}");
        }
        Self { line, kind, values }
    }

    fn take(&mut self, key: &str) -> &'a str {
        let value = self.values.remove(key);
        value.unwrap_or_else(|| panic!("no {key} in {}", self.line))
    }

    fn text(&mut self, key: &str) -> String {
        self.take(key).to_owned()
    }

    fn parsed<T: std::str::FromStr>(&mut self, key: &str) -> T {
        let value = self.take(key).parse();
        value.unwrap_or_else(|_| panic!("{key} is no number that fits in {}", self.line))
    }

    fn optional(&mut self, key: &str) -> Option<i32> {
        if self.values.get(key) == Some(&"none") {
            self.values.remove(key);
            return None;
        }
        Some(self.parsed(key))
    }

    fn number(&mut self, key: &str) -> u64 {
        number(self.take(key)).unwrap_or_else(|| panic!("{key} is no number in {}", self.line))
    }

    fn range(&mut self, key: &str) -> (u64, u64) {
        let range = self.take(key).split_once('-');
        let range = range.and_then(|(first, last)| Some((number(first)?, number(last)?)));
        range.unwrap_or_else(|| panic!("{key} is no range in {}", self.line))
    }

    /// All that is left, as numbers.
    fn all(&mut self) -> BTreeMap<String, u64> {
        let values = std::mem::take(&mut self.values);
        let line = self.line;
        let number = |value| number(value).unwrap_or_else(|| panic!("{value} in {line}"));
        values
            .into_iter()
            .map(|(key, value)| (key.to_owned(), number(value)))
            .collect()
    }

    fn end(self) {
        assert!(
            self.values.is_empty(),
            "unknown {:?} in {}",
            self.values,
            self.line
        );
    }
}

/// A decimal number, or a hexadecimal one after `0x`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
