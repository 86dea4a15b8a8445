// SPDX-License-Identifier: GPL-2.0

//! The module's report (`docs/report.md`), read from lines of the kernel log.
//!
//! A later module may add keys and lines. Those are no error: [`Report::unknown`] has them.

mod line;

use std::{
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
    /// The vCPUs.
    pub vcpus: Vec<Vcpu>,
    /// The memslots.
    pub slots: Vec<Slot>,
    /// The hits that were printed.
    pub hits: Vec<Hit>,
    /// Where the search ended, if it ended early.
    pub left: Option<Place>,
    /// The memory that changed faster than it could be searched.
    pub uncovered: Vec<Uncovered>,
    /// The last line.
    pub done: Done,
    /// The keys (`done new_key=1`) and whole lines that this version does not know.
    pub unknown: Vec<String>,
}

/// How a vCPU was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its thread waited at the entry of `KVM_RUN`.
    Parked,
    /// Its thread was elsewhere, or there was none. The vCPU was locked out of `KVM_RUN`.
    Outside,
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
    /// How many pages it has.
    pub pages: u64,
    /// How many of them are present.
    pub present: u64,
    /// `none`, or its flags, separated by commas.
    pub flags: String,
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
    /// The VMM changed its memslots meanwhile.
    MemslotsChanged,
    /// The VMM was killed meanwhile.
    VmmKilled,
    /// The allowed pauses were too short: see [`Report::left`].
    TimeUp,
    /// Memory changed too fast: see [`Report::uncovered`].
    Changed,
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
            if !line.starts_with("vm ") {
                this.others.push(line.clone());
                rest = after;
                continue;
            }
            let Some(end) = after.iter().position(|line| line.starts_with("done ")) else {
                this.cut_off = rest.to_vec();
                break;
            };
            let (report, after) = rest.split_at(end + 2);
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
        let mut vm = Line::parse(first.as_ref())?;
        if vm.keyword != "vm" {
            return Err(ParseError::LineMissing("vm"));
        }
        let mut done = Line::parse(last.as_ref())?;
        if done.keyword != "done" {
            return Err(ParseError::LineMissing("done"));
        }
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
            vcpus: Vec::new(),
            slots: Vec::new(),
            hits: Vec::new(),
            left: None,
            uncovered: Vec::new(),
            done: Done::parse(&mut done)?,
            unknown: Vec::new(),
        };
        this.unknown.extend(vm.left_over());
        for line in rest.split_last().map_or(&[][..], |(_, middle)| middle) {
            this.add(line.as_ref())?;
        }
        this.unknown.extend(done.left_over());
        check_count("vcpu", vcpus, this.vcpus.len())?;
        check_count("slot", slots, this.slots.len())?;
        check_count("hit", printed, this.hits.len())?;
        Ok(this)
    }

    /// Adds a line between the first and the last one.
    fn add(&mut self, text: &str) -> Result<(), ParseError> {
        let mut line = Line::parse(text)?;
        match line.keyword {
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
        self.slots.iter().map(|slot| slot.present).sum()
    }

    /// Returns how many pages all slots have.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.slots.iter().map(|slot| slot.pages).sum()
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
            pages: line.number("pages")?,
            present: line.number("present")?,
            flags: line.text("flags")?,
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
        })
    }
}

impl FromStr for State {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "parked" => Ok(Self::Parked),
            "outside" => Ok(Self::Outside),
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
            "memslots_changed" => Ok(Self::MemslotsChanged),
            "vmm_killed" => Ok(Self::VmmKilled),
            "time_up" => Ok(Self::TimeUp),
            "changed" => Ok(Self::Changed),
            _ => Err(UnknownWord),
        }
    }
}

/// A value that is none of the documented words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownWord;

/// Returns an error if a report has not as many lines of a kind as it says.
fn check_count(keyword: &'static str, announced: u64, lines: usize) -> Result<(), ParseError> {
    if u64::try_from(lines) == Ok(announced) {
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
