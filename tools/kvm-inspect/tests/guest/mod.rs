// SPDX-License-Identifier: GPL-2.0

//! A guest that is not there, for the tests of files.

#![allow(dead_code, reason = "each test uses some of it")]

use std::fs;

use kvm_inspect_tool::{
    core::{CpuNote, Layout, Notes, Range, Ranges, Writer},
    output::{Existing, Output},
    registers::{Registers, Segment, Table},
};

pub(crate) const PAGE: u64 = 4096;

/// Returns ranges, given as pages.
pub(crate) fn ranges(pages: &[(u64, u64)]) -> Ranges {
    let range = |(first, count): &(u64, u64)| Range::new(first * PAGE, count * PAGE);
    Ranges::new(pages.iter().map(range)).expect("ranges")
}

/// Returns the content of a range. Each page has another, and none is of zeros.
pub(crate) fn content(range: Range) -> Vec<u8> {
    let mut bytes = Vec::new();
    for gpa in (range.gpa..range.gpa + range.size).step_by(8) {
        bytes.extend_from_slice(&(gpa ^ 0x5a5a_5a5a_5a5a_5a5a).to_le_bytes());
    }
    bytes
}

/// Returns the registers of a CPU in the kernel.
pub(crate) fn registers(cpu: u32) -> Registers {
    Registers {
        rax: 0x100 + u64::from(cpu),
        rsp: 0xffff_8880_0000_1f00,
        rip: 0xffff_ffff_8100_0123,
        rflags: 0x246,
        cs: Segment {
            selector: 0x10,
            limit: u32::MAX,
            kind: 0xb,
            present: true,
            s: true,
            l: true,
            g: true,
            ..Segment::default()
        },
        idt: Table {
            base: 0xffff_fe00_0000_0000,
            limit: 0xfff,
        },
        cr0: 0x8005_0033,
        cr3: 0x2000,
        cr4: 0x0037_06f0,
        efer: 0xd01,
        ..Registers::default()
    }
}

/// Returns the notes of a guest with so many CPUs.
pub(crate) fn notes(cpus: u32) -> Notes {
    let note = |cpu| CpuNote {
        cpu,
        registers: Some(registers(cpu)),
    };
    Notes {
        cpus: (0..cpus).map(note).collect(),
        vmcoreinfo: None,
        own: r#"{"manifest_version":1}"#.to_owned(),
    }
}

/// Returns the bytes of a file that is written so.
pub(crate) fn written(layout: Layout, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("core");
    let output = Output::create(&path, Existing::Refuse).expect("an output");
    let mut writer = Writer::begin(output, layout).expect("a writer");
    write(&mut writer);
    let written = writer.finish().expect("finished");
    written.output.commit(None).expect("committed");
    fs::read(&path).expect("it is there")
}
