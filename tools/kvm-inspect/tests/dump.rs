// SPDX-License-Identifier: GPL-2.0

//! A dump of a real guest, if there is one:
//!
//! ```text
//! KVM_INSPECT_DUMP=CORE [KVM_INSPECT_DUMP_KALLSYMS=FILE] [KVM_INSPECT_DUMP_DMESG=FILE] \
//!     scripts/in-root cargo test --package kvm-inspect --test dump -- --ignored --nocapture
//! ```
//!
//! CORE was written by QEMU's `dump-guest-memory`, of a Linux guest of version 6.0 or later whose
//! vCPUs all run the kernel or processes. The other files are the guest's `/proc/kallsyms`, with
//! `kptr_restrict=0`, and what `dmesg --raw` printed in it. The paths are those of the build root.

use std::{collections::HashSet, env, fs, fs::File};

use kvm_inspect_tool::{
    guest::CoreFile,
    linux::{
        candidates, prove, CpuNumbers, DirectMap, Kallsyms, Kernel, Log, MapSource, Proof, Record,
        MAX_CANDIDATES,
    },
    paging::{ControlRegisters, RunLimit},
};

fn file(variable: &str) -> Option<String> {
    let path = env::var(variable).ok()?;
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Returns the registers in QEMU's notes (`QEMUCPUState`): after 8 bytes of header, 18 general
/// registers, and 10 segments of 24 bytes. EFER is not there; Linux has it in long mode.
fn vcpus(core: &CoreFile) -> Vec<ControlRegisters> {
    let notes = core.notes().iter().filter(|note| note.name == b"QEMU");
    let control = notes.map(|note| {
        let register = |number: usize| {
            let at = 8 + 18 * 8 + 10 * 24 + number * 8;
            let bytes = note
                .content
                .get(at..at + 8)
                .expect("the note is long enough");
            bytes
                .iter()
                .rev()
                .fold(0, |all, byte| (all << 8) | u64::from(*byte))
        };
        ControlRegisters {
            cr0: register(0),
            cr3: register(3),
            cr4: register(4),
            efer: 0xd01,
        }
    });
    control.collect()
}

fn check_symbols(symbols: &Kallsyms, expected: &str) {
    let lines = expected.lines().filter(|line| !line.contains('['));
    let lines: Vec<_> = lines.filter(|line| line.split(' ').count() == 3).collect();
    assert_eq!(symbols.len(), lines.len());
    for (symbol, line) in symbols.iter().zip(lines) {
        let text = format!("{:016x} {} {}", symbol.address, symbol.kind, symbol.name);
        assert_eq!(text, line);
    }
}

/// Compares the records with what `dmesg` has printed. It has spaces before the second line of a
/// record, and may have been called earlier or later.
fn check_log(log: &Log, expected: &str) {
    let text = |record: &Record| {
        let priority = u32::from(record.facility) * 8 + u32::from(record.level);
        let lines: Vec<String> = record.lines().collect();
        format!("<{priority}>{}", lines.first().map_or("", String::as_str))
    };
    let lines: Vec<_> = expected
        .lines()
        .filter(|line| line.starts_with('<'))
        .collect();
    let texts: Vec<_> = log.records.iter().map(text).collect();
    let printed: HashSet<_> = lines.iter().copied().collect();
    let found = texts
        .iter()
        .filter(|text| printed.contains(text.as_str()))
        .count();
    println!(
        "{found} of {} records are among {} lines of dmesg",
        texts.len(),
        lines.len()
    );
    assert!(found * 100 >= texts.len() * 98);
}

fn check_kernel(kernel: &Kernel<'_>, symbols: &Kallsyms) {
    let map = DirectMap::find(kernel, Some(symbols)).expect("there is a direct map");
    let by_tables = DirectMap::find(kernel, None).expect("there is a direct map");
    assert_eq!(
        (map.base, map.source),
        (by_tables.base, MapSource::Variable)
    );
    let mappings: Result<Vec<_>, _> = kernel.mappings(RunLimit::default()).collect();
    println!(
        "{map:x?}, {} mappings",
        mappings.expect("there are few").len()
    );
    println!(
        "{:?}",
        CpuNumbers::read(kernel, symbols).expect("there are CPUs")
    );
    if let Some(expected) = file("KVM_INSPECT_DUMP_KALLSYMS") {
        check_symbols(symbols, &expected);
    }
    let log = Log::read(kernel).expect("there is a log");
    println!("{} records, {} skipped", log.records.len(), log.skipped);
    if let Some(expected) = file("KVM_INSPECT_DUMP_DMESG") {
        check_log(&log, &expected);
    }
}

#[test]
#[ignore = "needs a dump"]
fn a_dump_of_linux_is_understood() {
    let path = env::var("KVM_INSPECT_DUMP").expect("KVM_INSPECT_DUMP is the path of a core");
    let core = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let core = CoreFile::open(core).expect("it is a core");
    let vcpus = vcpus(&core);
    let gpas = candidates(&core, MAX_CANDIDATES).expect("it can be read");
    let proofs = prove(&core, &gpas, &vcpus);
    let taken = proofs.taken().expect("a kernel is found");
    println!(
        "{} at {:#x}",
        taken.note.info.os_release().unwrap_or("?"),
        taken.note.gpa
    );
    assert_eq!(taken.proof(), Proof::Pointer);
    assert!(!proofs.is_ambiguous);
    assert_eq!(taken.vcpus, (0..vcpus.len()).collect::<Vec<_>>());
    let kernel = taken.kernel.as_ref().expect("it is proved");
    check_kernel(kernel, taken.pointer.as_ref().expect("it is proved"));
}
