// SPDX-License-Identifier: GPL-2.0

//! What the program prints with `--json`: one object, in one line, for each command.
//! `docs/json.md` tells users of it, and [`schema`] is made from these types: what a member means
//! is said here only.
//!
//! Names are those of the report (`docs/report.md`): what is a line there is an object here, and
//! lines of one keyword are an array. As in a manifest, counts, sizes and guest-physical addresses
//! are numbers, all below 2^53, which every program reads exactly. Registers and addresses in the
//! VMM are text like `0xffff888000000000`, because they may be above. What is not known is `null`.
//! A later program may add members and words, and prints the same [`Version`] then.
//!
//! Names of VMs are text of somebody's making. What a terminal could take for a command is escaped
//! as JSON has it (`\u009b`), so that the object may be printed there.

mod output;
mod schema;
mod vcpu;
mod version;

use std::{borrow::Cow, fmt};

use kvm_inspect_pure::{range, uapi};
use schemars::{json_schema, JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

pub use self::{
    output::{write, Later, Stream},
    schema::{schema, COMMANDS},
    vcpu::{Control, Debug, General, Msrs, Segment, Segments, Table, Tables, Vcpu},
    version::Version,
};
use crate::{device, device::PageKind, hex, host};

/// A register, or an address that may be above 2^53. In JSON it is text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hex(pub u64);

/// What `list` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct List {
    /// The version of this form.
    pub json_version: Version,
    /// The VMs, ordered by process number and descriptor.
    pub vm: Vec<Vm>,
    /// How many processes could not be looked at.
    pub hidden: usize,
}

/// What `dmesg` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Dmesg {
    /// The version of this form.
    pub json_version: Version,
    /// Which VM.
    pub vm: Inspected,
    /// The records of the log, the oldest first.
    pub record: Vec<LogRecord>,
    /// How many more are incomplete: being written, overwritten, or invalid.
    pub skipped: u64,
    /// How many older ones were not read, because there are too many.
    pub omitted: u64,
}

/// A record of the log of the guest's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogRecord {
    /// Its number since boot. It is the guest's, which may lie: then it may be above 2^53.
    #[schemars(extend("maximum" = u64::MAX))]
    pub sequence: u64,
    /// When it was made, in nanoseconds since boot. It is the guest's, as the number.
    #[schemars(extend("maximum" = u64::MAX))]
    pub timestamp_ns: u64,
    /// How urgent it is, from 0 (emergency) to 7 (debug).
    #[schemars(range(max = 7))]
    pub level: u8,
    /// Who made it, as of syslog: 0 is the kernel.
    pub facility: u8,
    /// The number of the thread that made it; `null`: an interrupt.
    pub thread: Option<u32>,
    /// The number of the CPU whose interrupt made it; `null`: a thread.
    pub cpu: Option<u32>,
    /// Its text. Bytes that are no UTF-8 are replaced.
    pub text: String,
}

/// What `info` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Info {
    /// The version of this form.
    pub json_version: Version,
    /// Which VM.
    pub vm: Inspected,
    /// The kernel that runs; `null` if none was found.
    pub linux: Option<Linux>,
    /// All notes VMCOREINFO in the guest's memory, copies and forgeries, too.
    pub candidate: Vec<Candidate>,
    /// Another note is as good as the one that was taken.
    pub is_ambiguous: bool,
    /// The vCPUs.
    pub vcpu: Vec<InfoVcpu>,
}

/// The kernel that runs in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Linux {
    /// Its release, as `uname -r` tells it.
    pub os_release: Option<String>,
    /// Its build ID, by which its debug information is found.
    pub build_id: Option<String>,
    /// The guest-physical address of its note VMCOREINFO.
    pub vmcoreinfo_gpa: u64,
    /// How far the note is proved: by the kernel's own `pointer` to it, only by the `root` of its
    /// page tables, or not at all (`none`).
    #[schemars(extend("enum" = ["pointer", "root", "none"]))]
    pub proof: String,
    /// By how many bytes KASLR has moved the kernel.
    pub kaslr_offset: Option<Hex>,
    /// What is added to addresses of the kernel's image to make them physical, modulo 2^64.
    pub phys_base: Option<Hex>,
    /// How many levels its page tables have.
    #[schemars(extend("enum" = ["4", "5"]))]
    pub paging: String,
    /// The guest-virtual address at which it maps all memory.
    pub direct_map: Option<Hex>,
    /// What says so: the kernel's `variable`, or its `tables`.
    #[schemars(extend("enum" = ["variable", "tables", null]))]
    pub direct_map_source: Option<String>,
    /// How many symbols it has; `null` if they cannot be read.
    pub symbols: Option<usize>,
    /// How many of the vCPUs run it.
    pub vcpus: usize,
    /// The kernel's numbers of the vCPUs, in their order; `null` if they are not known.
    pub cpus: Option<Vec<u32>>,
}

/// A note VMCOREINFO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// Its guest-physical address.
    pub gpa: u64,
    /// The release that it names.
    pub os_release: Option<String>,
    /// How far it is proved, as `proof` of the kernel; `refuted`: it is of none that runs.
    #[schemars(extend("enum" = ["pointer", "root", "none", "refuted"]))]
    pub proof: String,
    /// How many of the vCPUs run its kernel.
    pub vcpus: usize,
    /// Why it is not proved further.
    pub why: Option<String>,
}

/// How a vCPU finds its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InfoVcpu {
    /// Its number, as the VMM gave it.
    pub id: i32,
    /// How it translates addresses: not at all (`off`), by 32-bit tables (`legacy`, `pae`), or by
    /// tables of `4` or `5` levels. `null` if it is not known.
    #[schemars(extend("enum" = ["off", "legacy", "pae", "4", "5", null]))]
    pub paging: Option<String>,
    /// The root of its page tables.
    pub cr3: Option<Hex>,
}

/// A VM of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vm {
    /// The VMM's process number.
    pub pid: i32,
    /// The VM's file descriptor in the VMM; `null` if the VMM has closed it.
    pub fd: Option<i32>,
    /// Its name. Bytes that are no UTF-8 are replaced.
    pub name: Option<String>,
    /// The VMM's program.
    pub program: String,
    /// How many vCPUs it has; `null` if the VMM has several VMs, for nothing tells whose they are.
    pub vcpus: Option<usize>,
    /// How many bytes of memory the VMM has in use.
    pub rss_bytes: Option<u64>,
    /// How many bytes of memory the guest has, if the device was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// The VM that was inspected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Inspected {
    /// The VMM's process number.
    pub pid: i32,
    /// The VM's file descriptor in the VMM; `null` if the VMM has closed it.
    pub fd: Option<i32>,
    /// Its name. Bytes that are no UTF-8 are replaced.
    pub name: Option<String>,
    /// How many vCPUs it has.
    pub vcpus: u32,
}

/// What `regs` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Regs {
    /// The version of this form.
    pub json_version: Version,
    /// Which VM.
    pub vm: Inspected,
    /// How long it took until all vCPUs had stopped, in microseconds.
    pub freeze_us: u64,
    /// How long the guest stood, in microseconds.
    pub pause_us: u64,
    /// Its vCPUs, all of one instant.
    pub vcpu: Vec<Vcpu>,
}

/// What `slots` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Slots {
    /// The version of this form.
    pub json_version: Version,
    /// Which VM.
    pub vm: Inspected,
    /// Its memslots.
    pub slot: Vec<Slot>,
    /// The pages of all of them; without them if they were not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Pages>,
}

/// A memslot. The counts of its pages are all there, or none is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = schema::all_or_none)]
pub struct Slot {
    /// The address space: 0, or 1 for system management mode.
    #[serde(rename = "as")]
    pub address_space: u16,
    /// The number that the VMM gave it; from 32764 on it is one of KVM's own.
    pub id: i16,
    /// Its first guest-physical address.
    pub gpa: u64,
    /// Its first address in the VMM.
    pub hva: Hex,
    /// What KVM was told of it: dirty pages are logged, the guest cannot write, private memory is
    /// in a `guest_memfd`, or all of it is.
    #[schemars(extend("items" = {
        "type": "string",
        "enum": ["log_dirty", "readonly", "guest_memfd", "guest_memfd_only"],
    }))]
    pub flags: Vec<String>,
    /// How many pages of 4096 bytes it has.
    pub pages: u64,
    /// What they are; without it if they were not looked at.
    #[serde(flatten)]
    pub kinds: Option<Kinds>,
}

/// Pages by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pages {
    /// How many there are.
    pub pages: u64,
    /// What they are.
    #[serde(flatten)]
    pub kinds: Kinds,
}

/// How many pages are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kinds {
    /// Pages that are in memory, and readable.
    pub present: u64,
    /// Without content: the guest would read zeros.
    pub untouched: u64,
    /// The VMM has nothing there.
    pub unmapped: u64,
    /// Swapped out.
    pub swapped: u64,
    /// In a file, and not in memory.
    pub in_file: u64,
    /// Brought by the VMM when they are touched.
    pub userfault: u64,
    /// With a memory error.
    pub poisoned: u64,
    /// Memory of a device.
    pub device: u64,
    /// With content that could not be read.
    pub unreadable: u64,
    /// Private to the guest.
    pub private: u64,
    /// Of a kind that this version does not know.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub other: u64,
}

/// What `search` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
// `H` and `E` are what is printed while it is found.
pub struct Search<H = Vec<Hit>, E = End> {
    /// The version of this form.
    pub json_version: Version,
    /// Which VM.
    pub vm: Inspected,
    /// What was searched for.
    pub pattern: Vec<Pattern>,
    /// Where; an empty array means all memory.
    pub range: Vec<Range>,
    /// What came of it.
    pub done: Done,
    /// The pages of all slots.
    pub memory: Pages,
    /// The vCPUs in the first pause.
    pub vcpu: Vec<Vcpu>,
    /// The memslots.
    pub slot: Vec<Slot>,
    /// Where the search ended early.
    pub left: Option<Place>,
    /// Memslots that the VMM has changed meanwhile.
    pub lost: Vec<Stretch>,
    /// Memory that is not covered in one instant.
    pub uncovered: Vec<Stretch>,
    /// The hits.
    pub hit: H,
    /// How the list of hits ended. Without it the output is cut off.
    pub end: E,
}

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pattern {
    /// Its number, from 0, as in `hit`.
    pub number: usize,
    /// Which one: what is written before its colon.
    #[schemars(extend("enum" = ["text", "itext", "utf16", "iutf16", "hex"]))]
    pub kind: String,
    /// How many bytes it has.
    pub length: usize,
    /// How many bits of them are given.
    pub bits: u32,
    /// The first 16 hex digits of the SHA-256 digest of the pattern as it was written.
    #[schemars(regex(pattern = "^[0-9a-f]{16}$"))]
    pub digest: String,
}

/// Guest-physical addresses. The last one may be above 2^53, so both are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Range {
    /// The first.
    pub first: Hex,
    /// The last, included.
    pub last: Hex,
}

/// What came of a search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    /// How far to trust it: `ok` means that everything that has content was searched, as it was in
    /// one instant. `docs/report.md`, `done`, tells of the others. `unknown`: the module is newer.
    #[schemars(extend("enum" = [
        "ok", "no_pattern", "incomplete", "memslots_changed", "vmm_killed", "vm_closed", "time_up",
        "not_one_instant", "changed", "unknown",
    ]))]
    pub result: String,
    /// How many vCPUs there are.
    pub vcpus: u32,
    /// How many memslots there are.
    pub slots: u32,
    /// How many hits there are, printed or not.
    pub hits: u64,
    /// How many bytes were searched, each counted once.
    pub scanned_bytes: u64,
    /// Microseconds until all vCPUs had stopped, in the first pause.
    pub freeze_us: u64,
    /// Microseconds of the longest pause.
    pub pause_us: u64,
    /// Microseconds for which memory was searched.
    pub scan_us: u64,
    /// How many threads searched.
    pub threads: u32,
    /// What scanned memory. `unknown`: the module is newer.
    #[schemars(extend("enum" = ["avx512", "avx2", "portable", "unknown"]))]
    pub engine: String,
    /// How pages were read. `unknown`: the module is newer.
    #[schemars(extend("enum" = ["linear", "vmap", "copy", "unknown"]))]
    pub access: String,
    /// How many pauses there were.
    pub pauses: u32,
    /// Microseconds of all pauses together.
    pub paused_us: u64,
    /// How many bytes were searched again because they had changed.
    pub rescanned_bytes: u64,
    /// How many bytes are not covered in one instant.
    pub uncovered_bytes: u64,
    /// How many pages in the ranges have content and could not be searched.
    pub missing_pages: u64,
    /// The size of a chunk in bytes; 0 with one pause.
    pub chunk_bytes: u64,
    /// How many threads got too little of a CPU.
    pub late_threads: u32,
}

/// A place in a guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// The address space: 0, or 1 for system management mode.
    #[serde(rename = "as")]
    pub address_space: u32,
    /// The guest-physical address.
    pub gpa: u64,
}

/// Neighbouring pages of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stretch {
    /// The address space: 0, or 1 for system management mode.
    #[serde(rename = "as")]
    pub address_space: u16,
    /// The number of the memslot.
    pub slot: i16,
    /// The first guest-physical address.
    pub gpa: u64,
    /// How many pages of 4096 bytes there are.
    pub pages: u64,
}

/// A place where a pattern was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hit {
    /// The number of the pattern.
    pub pattern: u32,
    /// The address space of its memslot.
    #[serde(rename = "as")]
    pub address_space: u16,
    /// The number of its memslot.
    pub slot: i16,
    /// The guest-physical address of its first byte.
    pub gpa: u64,
    /// The address of its first byte in the VMM.
    pub hva: Hex,
    /// Its bytes and those on both sides in hex digits, with `--context`.
    #[schemars(regex(pattern = "^([0-9a-f]{2})+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
    /// How many of these bytes come before its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u16>,
}

/// How a list of hits ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct End {
    /// How many hits were printed.
    pub printed: u64,
    /// How many searches it took. Each is of an instant of its own, but with `--one-pause`.
    pub searches: u32,
    /// Hits are missing though they were asked for, because there are too many.
    pub is_cut: bool,
}

/// What `read` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
// `E` is what is printed while it is read.
pub struct Read<E = Vec<Extent>> {
    /// The version of this form.
    pub json_version: Version,
    /// Which VM.
    pub vm: Inspected,
    /// The memory, in ascending order without gaps.
    pub extent: E,
}

/// Neighbouring bytes of pages of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Extent {
    /// The guest-virtual address of the first byte, if it was asked for by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gva: Option<Hex>,
    /// The guest-physical address of the first byte; `null` if the guest has nothing there.
    pub gpa: Option<u64>,
    /// How many bytes there are.
    pub size: u64,
    /// What the pages are, as in `slots`; or `outside` of all memslots, not reached in time
    /// (`late`), of a kind that this version does not know (`other`); `not_mapped`: the guest has
    /// nothing there.
    #[schemars(extend("enum" = [
        "present", "untouched", "unmapped", "swapped", "in_file", "userfault", "poisoned", "device",
        "unreadable", "private", "outside", "late", "other", "not_mapped",
    ]))]
    pub kind: String,
    /// The bytes in hex digits, if they are present.
    #[schemars(regex(pattern = "^([0-9a-f]{2})+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl JsonSchema for Hex {
    fn schema_name() -> Cow<'static, str> {
        "Hex".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number below 2^64 as hex digits, without leading zeros",
            "type": "string",
            "pattern": "^0x(0|[1-9a-f][0-9a-f]{0,15})$",
        })
    }
}

impl From<Hex> for String {
    fn from(hex: Hex) -> Self {
        hex.to_string()
    }
}

impl TryFrom<String> for Hex {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.strip_prefix("0x");
        let digits = digits.filter(|digits| !digits.starts_with('+'));
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number
            .map(Self)
            .ok_or_else(|| format!("{text} is no number, such as 0x1f"))
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Vm {
    /// Creates it from what `/proc` tells.
    #[must_use]
    pub fn new(vm: &host::Vm) -> Self {
        Self {
            pid: vm.pid,
            fd: vm.fd,
            name: vm
                .name
                .as_ref()
                .map(|name| name.to_string_lossy().into_owned()),
            program: vm.program.to_string_lossy().into_owned(),
            vcpus: vm.vcpus,
            rss_bytes: vm.rss_bytes,
            memory_bytes: None,
        }
    }
}

impl Inspected {
    /// Creates it from what `/proc` and the device tell.
    #[must_use]
    pub fn new(vm: &host::Vm, attached: &device::Attached) -> Self {
        Self {
            pid: attached.pid,
            fd: attached.fd,
            name: vm
                .name
                .as_ref()
                .map(|name| name.to_string_lossy().into_owned()),
            vcpus: attached.vcpus,
        }
    }
}

impl Kinds {
    /// Counts pages of a kind.
    pub fn add(&mut self, kind: PageKind, pages: u64) {
        let count = match kind {
            PageKind::Present => &mut self.present,
            PageKind::Untouched => &mut self.untouched,
            PageKind::Unmapped => &mut self.unmapped,
            PageKind::Swapped => &mut self.swapped,
            PageKind::InFile => &mut self.in_file,
            PageKind::Userfault => &mut self.userfault,
            PageKind::Poisoned => &mut self.poisoned,
            PageKind::Device => &mut self.device,
            PageKind::Unreadable => &mut self.unreadable,
            PageKind::Private => &mut self.private,
            PageKind::Outside | PageKind::Late | PageKind::Other(_) => &mut self.other,
        };
        *count = count.saturating_add(pages);
    }

    /// Returns the counts with their names, in the order of the report.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 11] {
        [
            ("present", self.present),
            ("untouched", self.untouched),
            ("unmapped", self.unmapped),
            ("swapped", self.swapped),
            ("in_file", self.in_file),
            ("userfault", self.userfault),
            ("poisoned", self.poisoned),
            ("device", self.device),
            ("unreadable", self.unreadable),
            ("private", self.private),
            ("other", self.other),
        ]
    }
}

impl FromIterator<(PageKind, u64)> for Kinds {
    fn from_iter<T: IntoIterator<Item = (PageKind, u64)>>(counts: T) -> Self {
        let mut kinds = Self::default();
        for (kind, pages) in counts {
            kinds.add(kind, pages);
        }
        kinds
    }
}

impl Pages {
    /// Creates it from counts.
    #[must_use]
    pub fn new(kinds: Kinds) -> Self {
        let counts = kinds.named().into_iter().map(|(_, count)| count);
        Self {
            pages: counts.fold(0, u64::saturating_add),
            kinds,
        }
    }
}

impl Slot {
    /// Creates it from what the device tells, without counts of pages.
    #[must_use]
    pub fn new(slot: &uapi::Slot) -> Self {
        let flags = [
            (uapi::SLOT_LOG_DIRTY, "log_dirty"),
            (uapi::SLOT_READONLY, "readonly"),
            (uapi::SLOT_GUEST_MEMFD, "guest_memfd"),
            (uapi::SLOT_GUEST_MEMFD_ONLY, "guest_memfd_only"),
        ];
        let flags = flags.into_iter().filter(|(bit, _)| slot.flags & bit != 0);
        Self {
            address_space: slot.address_space,
            id: slot.id,
            gpa: slot.gpa,
            hva: Hex(slot.hva),
            flags: flags.map(|(_, name)| name.to_owned()).collect(),
            pages: slot.pages,
            kinds: None,
        }
    }

    /// Creates it from what a search has found.
    #[must_use]
    pub fn of_search(slot: &uapi::Slot) -> Self {
        Self {
            kinds: Some(device::kinds(&slot.kinds).into_iter().collect()),
            ..Self::new(slot)
        }
    }
}

impl Search<(), ()> {
    /// Adds the hits, and how they end.
    #[must_use]
    pub fn with<H, E>(self, hit: H, end: E) -> Search<H, E> {
        Search {
            json_version: self.json_version,
            vm: self.vm,
            pattern: self.pattern,
            range: self.range,
            done: self.done,
            memory: self.memory,
            vcpu: self.vcpu,
            slot: self.slot,
            left: self.left,
            lost: self.lost,
            uncovered: self.uncovered,
            hit,
            end,
        }
    }
}

impl Done {
    /// Creates it from what the device tells, but for the words.
    #[must_use]
    pub fn new(figures: &uapi::Search) -> Self {
        Self {
            result: String::new(),
            vcpus: figures.vcpus,
            slots: figures.slots,
            hits: figures.hits,
            scanned_bytes: figures.scanned_bytes,
            freeze_us: figures.freeze_ns / 1000,
            pause_us: figures.pause_ns / 1000,
            scan_us: figures.scan_ns / 1000,
            threads: figures.threads,
            engine: String::new(),
            access: String::new(),
            pauses: figures.pauses,
            paused_us: figures.paused_ns / 1000,
            rescanned_bytes: figures.rescanned_bytes,
            uncovered_bytes: figures.uncovered_bytes,
            missing_pages: figures.missing_pages,
            chunk_bytes: figures.chunk_bytes,
            late_threads: figures.late_threads,
        }
    }
}

impl Range {
    /// Creates it from a range.
    #[must_use]
    pub const fn new(range: &range::Range) -> Self {
        Self {
            first: Hex(range.first),
            last: Hex(range.last),
        }
    }
}

impl Stretch {
    /// Creates it from memory that a search does not cover.
    #[must_use]
    pub const fn new(uncovered: &uapi::Uncovered) -> Self {
        Self {
            address_space: uncovered.address_space,
            slot: uncovered.slot,
            gpa: uncovered.gpa,
            pages: uncovered.pages,
        }
    }

    /// Creates it from a memslot.
    #[must_use]
    pub const fn of_slot(slot: &uapi::Slot) -> Self {
        Self {
            address_space: slot.address_space,
            slot: slot.id,
            gpa: slot.gpa,
            pages: slot.pages,
        }
    }
}

impl Hit {
    /// Creates it from what a search has found.
    #[must_use]
    pub fn new(hit: &device::Hit) -> Self {
        let has_bytes = !hit.bytes.is_empty();
        Self {
            pattern: hit.pattern,
            address_space: hit.address_space,
            slot: hit.slot,
            gpa: hit.gpa,
            hva: Hex(hit.hva),
            bytes: has_bytes.then(|| hex::digits(&hit.bytes)),
            before: has_bytes.then_some(hit.before),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    fn vm() -> Inspected {
        Inspected {
            pid: 812,
            fd: Some(9),
            name: Some("web".to_owned()),
            vcpus: 2,
        }
    }

    /// Checks the text of an object, and that it is read back as the same.
    fn check<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(object: &T, text: &str) {
        assert_eq!(serde_json::to_string(object).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<T>(text).expect("read"), *object);
    }

    #[test]
    fn a_list_of_vms_is_as_it_was() {
        let list = List {
            json_version: Version,
            vm: vec![Vm {
                pid: 812,
                fd: Some(9),
                name: None,
                program: "vmm".to_owned(),
                vcpus: Some(2),
                rss_bytes: Some(4096),
                memory_bytes: None,
            }],
            hidden: 3,
        };
        let text = concat!(
            r#"{"json_version":1,"vm":[{"pid":812,"fd":9,"name":null,"program":"vmm","#,
            r#""vcpus":2,"#
        );
        check(&list, &format!(r#"{text}"rss_bytes":4096}}],"hidden":3}}"#));
    }

    #[test]
    fn slots_are_as_they_were() {
        let kinds: Kinds = [(PageKind::Present, 3), (PageKind::Swapped, 1)]
            .into_iter()
            .collect();
        let slots = Slots {
            json_version: Version,
            vm: vm(),
            slot: vec![Slot {
                address_space: 0,
                id: 2,
                gpa: 0x10_0000,
                hva: Hex(0x7efc_b3f0_0000),
                flags: vec!["readonly".to_owned()],
                pages: 4,
                kinds: Some(kinds),
            }],
            memory: Some(Pages::new(kinds)),
        };
        let counts = concat!(
            r#""pages":4,"present":3,"untouched":0,"unmapped":0,"swapped":1,"in_file":0,"#,
            r#""userfault":0,"poisoned":0,"device":0,"unreadable":0,"private":0"#
        );
        let text = format!(
            "{}{}{counts}}}],\"memory\":{{{counts}}}}}",
            r#"{"json_version":1,"vm":{"pid":812,"fd":9,"name":"web","vcpus":2},"slot":[{"as":0,"#,
            r#""id":2,"gpa":1048576,"hva":"0x7efcb3f00000","flags":["readonly"],"#
        );
        check(&slots, &text);
    }

    #[test]
    fn a_slot_may_be_without_counts() {
        let text = r#"{"as":1,"id":0,"gpa":0,"hva":"0x0","flags":[],"pages":1}"#;
        let slot: Slot = serde_json::from_str(text).expect("read");
        assert_eq!(slot.kinds, None);
        check(&slot, text);
    }

    #[test]
    fn hits_are_as_they_were() {
        let hit = device::Hit {
            address_space: 0,
            gpa: 0xffd_df20,
            pattern: 1,
            slot: 2,
            hva: 0x7efc_c3dd_df20,
            before: 1,
            bytes: vec![0, 0xab],
        };
        let text = r#"{"pattern":1,"as":0,"slot":2,"gpa":268295968,"hva":"0x7efcc3dddf20","#;
        check(
            &Hit::new(&hit),
            &format!(r#"{text}"bytes":"00ab","before":1}}"#),
        );
        let bare = device::Hit {
            bytes: Vec::new(),
            ..hit
        };
        check(&Hit::new(&bare), &format!("{}}}", &text[..text.len() - 1]));
    }

    #[test]
    fn numbers_in_hex_are_exact() {
        check(&Hex(u64::MAX), r#""0xffffffffffffffff""#);
        for text in [
            r#""ff""#,
            r#""0x+1""#,
            r#""0x""#,
            "1",
            r#""0x10000000000000000""#,
        ] {
            assert!(serde_json::from_str::<Hex>(text).is_err(), "{text}");
        }
    }
}
