// SPDX-License-Identifier: GPL-2.0

//! Inspections through the device, told as reports.
//!
//! To load and unload the module takes much longer than an inspection. So a process loads it for
//! its first inspection, and unloads it at its end, or before `insmod` is to load it with
//! parameters.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use kvm_inspect_pure::{range::Range, uapi};
use kvm_inspect_tool::{
    device::{self, open_process, Attached, Found, PageKind, Query, Session},
    hex, json,
    report::{
        Conclusion, Done, Hit, Mode, Pages, Place, Report, Slot, Source, State, Table, Uncovered,
        Vcpu,
    },
    Inspection, Loaded,
};

use super::{assert_nothing_left, module_file};
use crate::process::PAGE;

/// How many hits are told if an inspection does not say: as many as with `insmod`.
const DEFAULT_MAX_HITS: u32 = 64;

/// The loaded module.
static MODULE: Mutex<Option<Module>> = Mutex::new(None);

struct Module {
    loaded: Loaded,
    /// The session of the last inspection. While it watches its VM the probes stay armed, and need
    /// not be set for the next one.
    last: Option<Session>,
}

/// Inspects one VM in a session of its own: descriptors and process numbers may mean others by now
/// than in the last one.
///
/// # Errors
///
/// The device refuses.
pub(super) fn inspect(inspection: &Inspection) -> Result<Report, device::Error> {
    load();
    let asked = Asked::new(inspection);
    let session = Session::open()?;
    let attached = session.attach(open_process(asked.pid)?, asked.vm_fd)?;
    let report = {
        let found = session.search(&asked.query)?;
        report(&attached, &found, &asked)?
    };
    let before = with_module(|module| module.as_mut()?.last.replace(session));
    // Not under the lock: this waits for the session's thread.
    drop(before);
    Ok(report)
}

/// Loads the module, unless it is loaded for this.
fn load() {
    with_module(|module| {
        module.get_or_insert_with(|| Module {
            loaded: match Inspection::new().load(&module_file()) {
                Ok(loaded) => loaded,
                Err(error) => panic!("the module without parameters: {error}"),
            },
            last: None,
        });
    });
}

/// Unloads the module, if it is loaded for this. It must have logged nothing, and leave nothing.
pub(crate) fn end() {
    if let Some(module) = with_module(Option::take) {
        drop(module.last);
        let lines = module.loaded.unload();
        let lines = lines.unwrap_or_else(|error| panic!("unloading: {error}"));
        assert_nothing_left();
        assert!(lines.is_empty(), "{lines:#?}");
    }
}

fn with_module<R>(work: impl FnOnce(&mut Option<Module>) -> R) -> R {
    work(&mut MODULE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What an inspection asks for, as the device takes it.
struct Asked {
    pid: i32,
    vm_fd: Option<i32>,
    access: String,
    query: Query,
}

impl Asked {
    fn new(inspection: &Inspection) -> Self {
        let mut this = Self {
            pid: 0,
            vm_fd: None,
            access: "linear".to_owned(),
            query: Query {
                max_hits: DEFAULT_MAX_HITS,
                ..Query::default()
            },
        };
        for (name, value) in inspection.parameters() {
            this.add(name, value);
        }
        this
    }

    fn add(&mut self, name: &str, value: &str) {
        let query = &mut self.query;
        let number = || value.parse().unwrap_or_else(|_| panic!("{name}={value}"));
        match name {
            "pid" => self.pid = value.parse().expect("a process number"),
            "vm_fd" => self.vm_fd = Some(value.parse().expect("a descriptor")),
            // A comma in a pattern is written as `\x2c`.
            "pattern" => query.patterns = value.split(',').map(Into::into).collect(),
            "range" => query.ranges = value.split(',').map(range).collect(),
            "max_hits" => query.max_hits = number(),
            "context" => query.context = number(),
            "threads" => query.threads = number(),
            "freeze_timeout_ms" => query.freeze_timeout_ms = number(),
            "max_pause_ms" if value == "0" => query.max_pause_ms = uapi::NO_LIMIT,
            "max_pause_ms" => query.max_pause_ms = number(),
            "bring_in" => query.bring_in = value == "1",
            "engine" => query.engine = engine_number(value),
            "access" => {
                query.access = access_number(value);
                value.clone_into(&mut self.access);
            }
            _ => panic!("the device knows no {name}=; inspect by insmod"),
        }
    }
}

fn range(text: &str) -> Range {
    Range::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn engine_number(name: &str) -> u32 {
    let number = ENGINES.iter().find(|(_, other)| *other == name);
    number.unwrap_or_else(|| panic!("engine={name}")).0
}

fn engine_name(number: u32) -> &'static str {
    let name = ENGINES.iter().find(|(other, _)| *other == number);
    name.unwrap_or_else(|| panic!("engine {number}")).1
}

const ENGINES: [(u32, &str); 3] = [
    (uapi::ENGINE_PORTABLE, "portable"),
    (uapi::ENGINE_AVX2, "avx2"),
    (uapi::ENGINE_AVX512, "avx512"),
];

fn access_number(name: &str) -> u32 {
    match name {
        "linear" => uapi::ACCESS_LINEAR,
        "vmap" => uapi::ACCESS_VMAP,
        "copy" => uapi::ACCESS_COPY,
        _ => panic!("access={name}"),
    }
}

/// Returns what a search has found as a report. What the module prints of the request is not in it.
fn report(attached: &Attached, found: &Found<'_>, asked: &Asked) -> Result<Report, device::Error> {
    let figures = found.figures();
    let (vcpus, slots, uncovered) = (found.vcpus()?, found.slots()?, found.uncovered()?);
    let hits = found.hits().map(|hit| hit.map(|hit| to_hit(&hit)));
    let hits = hits.collect::<Result<Vec<Hit>, device::Error>>()?;
    // The lists are as long as the search has said.
    let counts = [vcpus.len(), slots.len(), uncovered.len(), hits.len()];
    let said = [
        figures.vcpus,
        figures.slots,
        figures.uncovered,
        figures.kept,
    ];
    assert_eq!(counts.map(|count| count as u64), said.map(u64::from));
    let conclusion = found.conclusion().expect("it is known");
    let lost = slots
        .iter()
        .filter(|slot| slot.flags & uapi::SLOT_LOST != 0);
    Ok(Report {
        pid: attached.pid,
        fd: attached.fd,
        patterns: Vec::new(),
        ranges: Vec::new(),
        limits: BTreeMap::new(),
        late: String::new(),
        is_checked: true,
        vcpus: vcpus.iter().map(to_vcpu).collect(),
        omitted_vcpus: 0,
        slots: slots.iter().map(to_slot).collect(),
        omitted_slots: 0,
        hits,
        left: (conclusion == Conclusion::TimeUp).then(|| left(figures, &slots)),
        lost: lost
            .map(|slot| Uncovered {
                space: slot.address_space,
                slot: number(slot.id),
                gpa: bytes(slot.gpa, slot.pages),
            })
            .collect(),
        uncovered: uncovered
            .iter()
            .map(|uncovered| Uncovered {
                space: uncovered.address_space,
                slot: number(uncovered.slot),
                gpa: bytes(uncovered.gpa, uncovered.pages),
            })
            .collect(),
        memory: pages(&figures.kinds),
        done: done(figures, conclusion, &asked.access),
        unknown: Vec::new(),
    })
}

fn done(figures: &uapi::Search, result: Conclusion, access: &str) -> Done {
    let memory = pages(&figures.kinds);
    let micros = |nanoseconds: u64| nanoseconds.div_ceil(1000);
    let private_pages = memory.of("private");
    Done {
        result,
        hits: figures.hits,
        scanned_bytes: figures.scanned_bytes,
        absent_pages: memory.all - memory.present - private_pages,
        freeze_us: micros(figures.freeze_ns),
        pause_us: micros(figures.pause_ns),
        private_pages,
        scan_us: micros(figures.scan_ns),
        threads: figures.threads.into(),
        engine: engine_name(figures.engine).to_owned(),
        access: access.to_owned(),
        pauses: figures.pauses.into(),
        paused_us: micros(figures.paused_ns),
        rescanned_bytes: figures.rescanned_bytes,
        uncovered_bytes: figures.uncovered_bytes,
        missing_pages: figures.missing_pages,
        chunk_bytes: figures.chunk_bytes,
        late_threads: figures.late_threads.into(),
    }
}

/// Returns where the search ended, with the memslot, which the device does not name.
fn left(figures: &uapi::Search, slots: &[uapi::Slot]) -> Place {
    let gpa = figures.left_gpa;
    let mut slots = slots.iter();
    let slot = slots.find(|slot| {
        u32::from(slot.address_space) == figures.left_address_space
            && bytes(slot.gpa, slot.pages).contains(&gpa)
    });
    let slot = slot.expect("it is in a memslot");
    Place {
        space: slot.address_space,
        slot: number(slot.id),
        gpa,
    }
}

fn to_hit(hit: &device::Hit) -> Hit {
    Hit {
        space: hit.address_space,
        gpa: hit.gpa,
        pattern: hit.pattern.try_into().expect("it is small"),
        slot: number(hit.slot),
        hva: hit.hva,
        bytes: (!hit.bytes.is_empty()).then(|| hex::digits(&hit.bytes)),
    }
}

fn to_slot(slot: &uapi::Slot) -> Slot {
    let names = [
        (uapi::SLOT_LOG_DIRTY, "log_dirty"),
        (uapi::SLOT_READONLY, "readonly"),
        (uapi::SLOT_GUEST_MEMFD, "guest_memfd"),
        (uapi::SLOT_GUEST_MEMFD_ONLY, "guest_memfd_only"),
    ];
    let names = names.into_iter().filter(|(bit, _)| slot.flags & bit != 0);
    let names: Vec<&str> = names.map(|(_, name)| name).collect();
    let pages = pages(&slot.kinds);
    assert_eq!(pages.all, slot.pages, "{slot:?}");
    Slot {
        space: slot.address_space,
        id: number(slot.id),
        gpa: bytes(slot.gpa, slot.pages),
        hva: bytes(slot.hva, slot.pages),
        flags: match names.as_slice() {
            [] => "none".to_owned(),
            names => names.join(","),
        },
        pages,
    }
}

/// Returns counts of pages by their names. A report has those that are 0, too.
fn pages(counts: &[u64; uapi::KINDS]) -> Pages {
    let kinds = PageKind::ALL.iter().zip(counts).skip(1);
    // Pages of memslots are of no other kind.
    let kinds = kinds.take_while(|(kind, _)| **kind != PageKind::Outside);
    let kinds = kinds.map(|(kind, count)| (kind.name().to_owned(), *count));
    Pages {
        all: counts.iter().sum(),
        present: counts[0],
        kinds: kinds.collect(),
    }
}

/// Returns the addresses of pages.
fn bytes(first: u64, pages: u64) -> std::ops::RangeInclusive<u64> {
    first..=first + (pages * PAGE - 1)
}

/// Returns the number of a memslot as a report has it.
fn number(id: i16) -> u16 {
    id.try_into().expect("it is not negative")
}

fn to_vcpu(vcpu: &uapi::Vcpu) -> Vcpu {
    let id = vcpu.id.try_into().expect("it is not negative");
    let vcpu = json::Vcpu::new(vcpu);
    let mode = vcpu.mode.map(|name| Mode {
        name,
        paging: vcpu.paging.expect("it comes with the mode"),
        cpl: vcpu.cpl.expect("it comes with the mode").into(),
    });
    let segments = vcpu.segment.map(|segments| {
        let named = segments.named().into_iter();
        named
            .map(|(name, segment)| (name.to_owned(), to_segment(segment)))
            .collect()
    });
    let tables = vcpu.table.map(|tables| {
        [("gdt", tables.gdt), ("idt", tables.idt)]
            .into_iter()
            .map(|(name, table)| {
                let (base, limit) = (table.base.0, table.limit.0);
                (name.to_owned(), Table { base, limit })
            })
            .collect()
    });
    Vcpu {
        id,
        state: vcpu.state.parse::<State>().expect("a state"),
        source: vcpu.source.parse::<Source>().expect("a source"),
        mode,
        nested: vcpu.nested,
        smm: vcpu.smm,
        unfinished: vcpu.exit == "unfinished",
        general: named(vcpu.regs.iter().flat_map(json::General::known)),
        control: named(vcpu.control.iter().flat_map(json::Control::known)),
        msrs: named(vcpu.msrs.iter().flat_map(json::Msrs::known)),
        debug: named(vcpu.debug.iter().flat_map(json::Debug::known)),
        segments: segments.unwrap_or_default(),
        tables: tables.unwrap_or_default(),
    }
}

fn to_segment(segment: &json::Segment) -> BTreeMap<String, u64> {
    let fields = [
        ("selector", segment.selector.0),
        ("base", segment.base.0),
        ("limit", segment.limit.0),
        ("type", segment.kind.0),
        ("s", segment.s.into()),
        ("dpl", segment.dpl.into()),
        ("present", segment.present.into()),
        ("avl", segment.avl.into()),
        ("l", segment.l.into()),
        ("db", segment.db.into()),
        ("g", segment.g.into()),
        ("unusable", segment.unusable.into()),
    ];
    named(fields.map(|(name, value)| (name, json::Hex(value))))
}

fn named(values: impl IntoIterator<Item = (&'static str, json::Hex)>) -> BTreeMap<String, u64> {
    let values = values.into_iter();
    values
        .map(|(name, value)| (name.to_owned(), value.0))
        .collect()
}
