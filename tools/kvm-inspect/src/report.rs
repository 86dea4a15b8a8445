// SPDX-License-Identifier: GPL-2.0

//! The module's report (`docs/report.md`), read from lines of the kernel log.
//!
//! A later module may add keys and lines. Those are no error: [`Report::unknown`] has them.

mod line;

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    error::Error,
    fmt::{self, Display},
    ops::RangeInclusive,
    str::FromStr,
};

use self::line::Line;

/// What the module has logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The complete reports.
    pub reports: Vec<Report>,
    /// The lines between them, such as `error: …`.
    pub others: Vec<String>,
    /// The lines of a last report whose end is not there.
    pub cut_off: Vec<String>,
}

/// The report on one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The process number of the VMM.
    pub pid: i32,
    /// The VM's file descriptor in the VMM, if that has one.
    pub fd: Option<i32>,
    /// What was searched for.
    pub patterns: Vec<Pattern>,
    /// The guest-physical addresses where it was searched for.
    pub ranges: Vec<RangeInclusive<u64>>,
    /// The limits, by their names.
    pub limits: BTreeMap<String, u64>,
    /// `late=`
    pub late: String,
    /// Whether the parameters are certainly those that were written.
    pub is_checked: bool,
    /// The vCPUs that were printed.
    pub vcpus: Vec<Vcpu>,
    /// How many more there are.
    pub omitted_vcpus: u64,
    /// The memslots that were printed.
    pub slots: Vec<Slot>,
    /// How many more there are.
    pub omitted_slots: u64,
    /// The hits that were printed.
    pub hits: Vec<Hit>,
    /// Where the search ended, if it ended early.
    pub left: Option<Place>,
    /// The memslots that the VMM has changed.
    pub lost: Vec<Uncovered>,
    /// The memory that changed faster than it could be searched.
    pub uncovered: Vec<Uncovered>,
    /// The pages of all slots.
    pub memory: Pages,
    /// The last line.
    pub done: Done,
    /// The keys (`done new_key=1`) and whole lines that this version does not know.
    pub unknown: Vec<String>,
}

/// What was searched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Its prefix, without the colon.
    pub kind: String,
    /// How many bytes it has.
    pub length: u64,
    /// How many bits of them are given.
    pub bits: u64,
    /// The first 16 hex digits of the SHA-256 digest of the pattern as it was written.
    pub digest: String,
}

/// How a vCPU was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its thread waited at the entry of `KVM_RUN`.
    Parked,
    /// Its thread was elsewhere, or there was none. The vCPU was locked out of `KVM_RUN`.
    Outside,
    /// It did not stop in time, and may have run (`late=report`).
    Running,
}

/// Where the registers of a vCPU come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// All are those that KVM itself holds.
    Kvm,
    /// The same, but some could not be read.
    Cached,
    /// There are none.
    None,
}

/// One vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vcpu {
    /// Its number.
    pub id: u64,
    /// How it was stopped.
    pub state: State,
    /// Where its registers come from.
    pub source: Source,
    /// Its mode, if all registers are known.
    pub mode: Option<Mode>,
    /// They are those of a nested guest.
    pub nested: bool,
    /// It is in system management mode.
    pub smm: bool,
    /// The VMM has not completed its last exit.
    pub unfinished: bool,
    /// The line `regs`.
    pub general: BTreeMap<String, u64>,
    /// The line `control`.
    pub control: BTreeMap<String, u64>,
    /// The line `msrs`.
    pub msrs: BTreeMap<String, u64>,
    /// The line `debug`.
    pub debug: BTreeMap<String, u64>,
    /// The lines `segment`, by their names.
    pub segments: BTreeMap<String, BTreeMap<String, u64>>,
    /// The lines `table`, by their names.
    pub tables: BTreeMap<String, Table>,
}

/// What mode a vCPU is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode {
    /// `real`, `protected`, …
    pub name: String,
    /// `none`, or the number of levels of its page tables.
    pub paging: String,
    /// The privilege level.
    pub cpl: u64,
}

/// A descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its address.
    pub base: u64,
    /// The offset of its last byte.
    pub limit: u64,
}

/// One memslot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its address space: 1 in system management mode, else 0.
    pub space: u16,
    /// Its number.
    pub id: u16,
    /// Its guest-physical addresses.
    pub gpa: RangeInclusive<u64>,
    /// Its addresses in the VMM.
    pub hva: RangeInclusive<u64>,
    /// `none`, or its flags, separated by commas.
    pub flags: String,
    /// Its pages.
    pub pages: Pages,
}

/// Pages, by what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages {
    /// How many there are.
    pub all: u64,
    /// How many of them are present.
    pub present: u64,
    /// How many there are of each other kind, by its name: `untouched`, `swapped`, …
    pub kinds: BTreeMap<String, u64>,
}

impl Pages {
    /// Returns how many pages of a kind there are.
    #[must_use]
    pub fn of(&self, kind: &str) -> u64 {
        self.kinds.get(kind).copied().unwrap_or(0)
    }

    /// Reads what is left of a line.
    fn parse(line: &mut Line<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            all: line.number("pages")?,
            present: line.number("present")?,
            kinds: line.numbers()?,
        })
    }
}

/// One place where a pattern was found. Hits are ordered as in a report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// The address space of its slot.
    pub space: u16,
    /// The guest-physical address of its first byte.
    pub gpa: u64,
    /// The number of the pattern.
    pub pattern: usize,
    /// The number of its slot.
    pub slot: u16,
    /// The address of its first byte in the VMM.
    pub hva: u64,
    /// Its bytes and those around it as hex digits, if `context=` asked for them.
    pub bytes: Option<String>,
}

/// A place in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address space of its slot.
    pub space: u16,
    /// The number of its slot.
    pub slot: u16,
    /// Its guest-physical address.
    pub gpa: u64,
}

/// Memory that was not searched in the same instant as the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncovered {
    /// The address space of its slot.
    pub space: u16,
    /// The number of its slot.
    pub slot: u16,
    /// Its guest-physical addresses.
    pub gpa: RangeInclusive<u64>,
}

/// What came of an inspection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// All was done.
    Ok,
    /// There was nothing to search for.
    NoPattern,
    /// The VMM changed its memslots meanwhile.
    MemslotsChanged,
    /// The VMM was killed meanwhile.
    VmmKilled,
    /// The VMM closed the VM meanwhile.
    VmClosed,
    /// The allowed pauses were too short: see [`Report::left`].
    TimeUp,
    /// A vCPU did not stop in time, and may have changed anything meanwhile.
    NotOneInstant,
    /// Memory changed too fast: see [`Report::uncovered`].
    Changed,
    /// Memory that has content could not be searched: see [`Report::memory`].
    Incomplete,
}

/// The last line of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What came of the inspection.
    pub result: Conclusion,
    /// How many hits there were, printed or not.
    pub hits: u64,
    /// How many bytes were searched, each counted once.
    pub scanned_bytes: u64,
    /// How many pages of all slots are absent.
    pub absent_pages: u64,
    /// How long the first freeze took.
    pub freeze_us: u64,
    /// How long the longest pause was.
    pub pause_us: u64,
    /// How many pages are private to the guest.
    pub private_pages: u64,
    /// For how long memory was searched in pauses.
    pub scan_us: u64,
    /// How many threads searched at once, at most.
    pub threads: u64,
    /// What searched.
    pub engine: String,
    /// How pages were read.
    pub access: String,
    /// How many pauses there were.
    pub pauses: u64,
    /// How long all pauses were together.
    pub paused_us: u64,
    /// How many bytes were searched again.
    pub rescanned_bytes: u64,
    /// How many bytes are uncovered.
    pub uncovered_bytes: u64,
    /// How many pages were to be searched, have content, and could not be.
    pub missing_pages: u64,
    /// The size of what is searched again if a byte of it changes; 0 with one pause.
    pub chunk_bytes: u64,
    /// How many threads that helped to search got too little of a CPU.
    pub late_threads: u64,
}

impl Output {
    /// Sorts the module's lines into reports and others.
    ///
    /// # Errors
    ///
    /// A report cannot be read.
    pub fn parse(lines: &[String]) -> Result<Self, ParseError> {
        let mut this = Self::default();
        let mut rest = lines;
        while let Some((line, after)) = rest.split_first() {
            if !Line::is_of_report(line) {
                this.others.push(line.clone());
                rest = after;
                continue;
            }
            let Some(end) = rest.iter().position(|line| line.starts_with("done ")) else {
                this.cut_off = rest.to_vec();
                break;
            };
            let (report, after) = rest.split_at(end + 1);
            this.reports.push(Report::parse(report)?);
            rest = after;
        }
        Ok(this)
    }
}

impl Report {
    /// Reads the lines of one report, from `vm` to `done`.
    ///
    /// # Errors
    ///
    /// Lines are missing, or one cannot be read.
    pub fn parse<S: AsRef<str>>(lines: &[S]) -> Result<Self, ParseError> {
        let (Some((first, rest)), Some(last)) = (lines.split_first(), lines.last()) else {
            return Err(ParseError::LineMissing("vm"));
        };
        check_numbers(lines)?;
        let mut vm = Line::parse(first.as_ref())?;
        if vm.keyword != "vm" {
            return Err(ParseError::LineMissing("vm"));
        }
        let mut done = Line::parse(last.as_ref())?;
        if done.keyword != "done" {
            return Err(ParseError::LineMissing("done"));
        }
        for line in [&mut vm, &mut done] {
            line.number("n")?;
        }
        // Checked with the others.
        done.number("lines")?;
        let counts = |line: &mut Line<'_>| Ok((line.number("vcpus")?, line.number("slots")?));
        let (vcpus, slots) = counts(&mut vm)?;
        // The last line has them once more.
        counts(&mut done)?;
        let printed = done.number("printed")?;
        let mut this = Self {
            pid: vm.parsed("pid")?,
            fd: match vm.take("fd")? {
                "none" => None,
                fd => Some(vm.value("fd", fd)?),
            },
            patterns: Vec::new(),
            ranges: Vec::new(),
            limits: BTreeMap::new(),
            late: String::new(),
            is_checked: false,
            vcpus: Vec::new(),
            omitted_vcpus: 0,
            slots: Vec::new(),
            omitted_slots: 0,
            hits: Vec::new(),
            left: None,
            lost: Vec::new(),
            uncovered: Vec::new(),
            memory: Pages {
                all: 0,
                present: 0,
                kinds: BTreeMap::new(),
            },
            done: Done::parse(&mut done)?,
            unknown: Vec::new(),
        };
        this.unknown.extend(vm.left_over());
        for line in rest.split_last().map_or(&[][..], |(_, middle)| middle) {
            this.add(line.as_ref())?;
        }
        this.unknown.extend(done.left_over());
        check_count("vcpu", vcpus, this.vcpus.len(), this.omitted_vcpus)?;
        check_count("slot", slots, this.slots.len(), this.omitted_slots)?;
        check_count("hit", printed, this.hits.len(), 0)?;
        Ok(this)
    }

    /// Adds a line between the first and the last one.
    fn add(&mut self, text: &str) -> Result<(), ParseError> {
        let mut line = Line::parse(text)?;
        line.number("n")?;
        match line.keyword {
            "pattern" => {
                // They come in their order.
                line.number("number")?;
                self.patterns.push(Pattern::parse(&mut line)?);
            }
            "range" => self.ranges.push(line.range("gpa")?),
            "limits" => {
                let parameters = line.take("parameters")?;
                self.is_checked = match parameters {
                    "checked" => true,
                    "unchecked" => false,
                    _ => return Err(line.not_understood("parameters", parameters)),
                };
                self.late = line.text("late")?;
                self.limits = line.numbers()?;
            }
            "omitted" => {
                let (what, count) = (line.take("what")?, line.number("count")?);
                match what {
                    "vcpus" => self.omitted_vcpus = count,
                    "slots" => self.omitted_slots = count,
                    _ => return Err(line.not_understood("what", what)),
                }
            }
            "vcpu" => self.vcpus.push(Vcpu::parse(&mut line)?),
            "regs" => {
                let vcpu = self.vcpu_of(&mut line)?;
                vcpu.general = line.numbers()?;
            }
            "control" => {
                let vcpu = self.vcpu_of(&mut line)?;
                vcpu.control = line.numbers()?;
            }
            "msrs" => {
                let vcpu = self.vcpu_of(&mut line)?;
                vcpu.msrs = line.numbers()?;
            }
            "debug" => {
                let vcpu = self.vcpu_of(&mut line)?;
                vcpu.debug = line.numbers()?;
            }
            "segment" => {
                let vcpu = self.vcpu_of(&mut line)?;
                let name = line.text("name")?;
                if vcpu.segments.insert(name, line.numbers()?).is_some() {
                    return Err(ParseError::LineTwice(text.to_owned()));
                }
            }
            "table" => {
                let vcpu = self.vcpu_of(&mut line)?;
                let name = line.text("name")?;
                if vcpu.tables.insert(name, Table::parse(&mut line)?).is_some() {
                    return Err(ParseError::LineTwice(text.to_owned()));
                }
            }
            "slot" => self.slots.push(Slot::parse(&mut line)?),
            "hit" => self.hits.push(Hit::parse(&mut line)?),
            "left" => self.left = Some(Place::parse(&mut line)?),
            "lost" => self.lost.push(Uncovered::parse(&mut line)?),
            "memory" => {
                self.memory = Pages::parse(&mut line)?;
            }
            "uncovered" => self.uncovered.push(Uncovered::parse(&mut line)?),
            "vm" => return Err(ParseError::LineMissing("done")),
            _ => {
                self.unknown.push(text.to_owned());
                return Ok(());
            }
        }
        self.unknown.extend(line.left_over());
        Ok(())
    }

    /// Returns the vCPU that a line belongs to: the last one.
    fn vcpu_of(&mut self, line: &mut Line<'_>) -> Result<&mut Vcpu, ParseError> {
        let id = line.number("vcpu")?;
        let vcpu = self.vcpus.last_mut().filter(|vcpu| vcpu.id == id);
        vcpu.ok_or(ParseError::VcpuMissing(id))
    }

    /// Returns the vCPU with this number.
    #[must_use]
    pub fn vcpu(&self, id: u64) -> Option<&Vcpu> {
        self.vcpus.iter().find(|vcpu| vcpu.id == id)
    }

    /// Returns the states of all vCPUs.
    #[must_use]
    pub fn states(&self) -> Vec<State> {
        self.vcpus.iter().map(|vcpu| vcpu.state).collect()
    }

    /// Returns the guest-physical addresses of the printed hits of a pattern, in their order.
    #[must_use]
    pub fn hits_of(&self, pattern: usize) -> Vec<u64> {
        let hits = self.hits.iter().filter(|hit| hit.pattern == pattern);
        hits.map(|hit| hit.gpa).collect()
    }

    /// Returns how many pages of all slots are present.
    #[must_use]
    pub fn present(&self) -> u64 {
        self.slots.iter().map(|slot| slot.pages.present).sum()
    }

    /// Returns how many pages all slots have.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.slots.iter().map(|slot| slot.pages.all).sum()
    }
}

impl Pattern {
    fn parse(line: &mut Line<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            kind: line.text("kind")?,
            length: line.number("length")?,
            bits: line.number("bits")?,
            digest: line.text("digest")?,
        })
    }
}

impl Vcpu {
    fn parse(line: &mut Line<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            id: line.number("id")?,
            state: line.parsed("state")?,
            source: line.parsed("source")?,
            mode: match line.optional("mode") {
                None => None,
                Some(name) => Some(Mode {
                    name: name.to_owned(),
                    paging: line.text("paging")?,
                    cpl: line.number("cpl")?,
                }),
            },
            nested: line.optional("nested") == Some("1"),
            smm: line.optional("smm") == Some("1"),
            unfinished: line.optional("exit") == Some("unfinished"),
            general: BTreeMap::new(),
            control: BTreeMap::new(),
            msrs: BTreeMap::new(),
            debug: BTreeMap::new(),
            segments: BTreeMap::new(),
            tables: BTreeMap::new(),
        })
    }
}

impl Table {
    fn parse(line: &mut Line<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            base: line.number("base")?,
            limit: line.number("limit")?,
        })
    }
}

impl Slot {
    fn parse(line: &mut Line<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            space: line.parsed("as")?,
            id: line.parsed("id")?,
            gpa: line.range("gpa")?,
            hva: line.range("hva")?,
            flags: line.text("flags")?,
            pages: Pages::parse(line)?,
        })
    }
}

impl Hit {
    fn parse(line: &mut Line<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            space: line.parsed("as")?,
            gpa: line.number("gpa")?,
            pattern: line.parsed("pattern")?,
            slot: line.parsed("slot")?,
            hva: line.number("hva")?,
            bytes: line.optional("bytes").map(str::to_owned),
        })
    }
}

impl Place {
    fn parse(line: &mut Line<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            space: line.parsed("as")?,
            slot: line.parsed("slot")?,
            gpa: line.number("gpa")?,
        })
    }
}

impl Uncovered {
    fn parse(line: &mut Line<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            space: line.parsed("as")?,
            slot: line.parsed("slot")?,
            gpa: line.range("gpa")?,
        })
    }
}

impl Done {
    fn parse(line: &mut Line<'_>) -> Result<Self, ParseError> {
        Ok(Self {
            result: line.parsed("result")?,
            hits: line.number("hits")?,
            scanned_bytes: line.number("scanned_bytes")?,
            absent_pages: line.number("absent_pages")?,
            freeze_us: line.number("freeze_us")?,
            pause_us: line.number("pause_us")?,
            private_pages: line.number("private_pages")?,
            scan_us: line.number("scan_us")?,
            threads: line.number("threads")?,
            engine: line.text("engine")?,
            access: line.text("access")?,
            pauses: line.number("pauses")?,
            paused_us: line.number("paused_us")?,
            rescanned_bytes: line.number("rescanned_bytes")?,
            uncovered_bytes: line.number("uncovered_bytes")?,
            missing_pages: line.number("missing_pages")?,
            chunk_bytes: line.number("chunk_bytes")?,
            late_threads: line.number("late_threads")?,
        })
    }
}

impl FromStr for State {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "parked" => Ok(Self::Parked),
            "outside" => Ok(Self::Outside),
            "running" => Ok(Self::Running),
            _ => Err(UnknownWord),
        }
    }
}

impl FromStr for Source {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "kvm" => Ok(Self::Kvm),
            "cached" => Ok(Self::Cached),
            "none" => Ok(Self::None),
            _ => Err(UnknownWord),
        }
    }
}

impl FromStr for Conclusion {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "ok" => Ok(Self::Ok),
            "no_pattern" => Ok(Self::NoPattern),
            "memslots_changed" => Ok(Self::MemslotsChanged),
            "vmm_killed" => Ok(Self::VmmKilled),
            "vm_closed" => Ok(Self::VmClosed),
            "time_up" => Ok(Self::TimeUp),
            "not_one_instant" => Ok(Self::NotOneInstant),
            "changed" => Ok(Self::Changed),
            "incomplete" => Ok(Self::Incomplete),
            _ => Err(UnknownWord),
        }
    }
}

/// A value that is none of the documented words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownWord;

/// Returns an error if the numbers of lines have a gap, or are not as many as the last line says.
fn check_numbers<S: AsRef<str>>(lines: &[S]) -> Result<(), ParseError> {
    let mut lost = Vec::new();
    let mut next = 1;
    for text in lines {
        let mut line = Line::parse(text.as_ref())?;
        let number = line.number("n")?;
        let before = number.saturating_sub(1);
        match number.cmp(&next) {
            Ordering::Less => return Err(ParseError::LineMissing("done")),
            Ordering::Equal => (),
            Ordering::Greater => lost.push(next..=before),
        }
        next = number.saturating_add(1);
        if line.keyword == "done" {
            let all = line.number("lines")?;
            if all >= next {
                lost.push(next..=all);
            }
            if all < number {
                return Err(line.not_understood("lines", &all.to_string()));
            }
        }
    }
    if lost.is_empty() {
        Ok(())
    } else {
        Err(ParseError::LinesLost(lost))
    }
}

/// Returns an error if a report has not as many lines of a kind as it says.
fn check_count(
    keyword: &'static str,
    announced: u64,
    lines: usize,
    omitted: u64,
) -> Result<(), ParseError> {
    if u64::try_from(lines).ok() == announced.checked_sub(omitted) {
        Ok(())
    } else {
        Err(ParseError::Count {
            keyword,
            announced,
            lines,
        })
    }
}

/// Why lines are no report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// A word is not `key=value`.
    Word {
        /// The word.
        word: String,
        /// Its line.
        line: String,
    },
    /// A line has a key twice.
    KeyTwice {
        /// The key.
        key: String,
        /// Its line.
        line: String,
    },
    /// A line lacks a key.
    KeyMissing {
        /// The key.
        key: String,
        /// The line.
        line: String,
    },
    /// A value makes no sense.
    Value {
        /// The value.
        value: String,
        /// Its key.
        key: String,
        /// Its line.
        line: String,
    },
    /// The kernel log has lost lines with these numbers.
    LinesLost(Vec<RangeInclusive<u64>>),
    /// The line with this keyword, the first or the last one, is not there.
    LineMissing(&'static str),
    /// A line comes twice, with the same name.
    LineTwice(String),
    /// The line of a vCPU is not there, but lines with its registers are.
    VcpuMissing(u64),
    /// There are not as many lines as the report says.
    Count {
        /// Their keyword.
        keyword: &'static str,
        /// How many the report says there are.
        announced: u64,
        /// How many there are.
        lines: usize,
    },
}

impl Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word { word, line } => write!(f, "{word:?} is not key=value in: {line}"),
            Self::KeyTwice { key, line } => write!(f, "{key}= comes twice in: {line}"),
            Self::KeyMissing { key, line } => write!(f, "there is no {key}= in: {line}"),
            Self::Value { value, key, line } => {
                write!(f, "{key}={value} is not understood in: {line}")
            }
            Self::LinesLost(lost) => {
                f.write_str("the kernel log has lost lines of the report, with the numbers")?;
                for (index, numbers) in lost.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(f, "{comma} {}", numbers.start())?;
                    if numbers.end() > numbers.start() {
                        write!(f, "-{}", numbers.end())?;
                    }
                }
                f.write_str("; read the log meanwhile, or make it larger with log_buf_len=")
            }
            Self::LineMissing(keyword) => write!(f, "the report has no line {keyword:?}"),
            Self::LineTwice(line) => write!(f, "the report has two lines like: {line}"),
            Self::VcpuMissing(id) => write!(f, "the report has no line \"vcpu\" for vCPU {id}"),
            Self::Count {
                keyword,
                announced,
                lines,
            } => write!(
                f,
                "the report has {lines} lines {keyword:?}, but says that there are {announced}"
            ),
        }
    }
}

impl Error for ParseError {}
