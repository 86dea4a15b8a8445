// SPDX-License-Identifier: GPL-2.0

//! Writes a core file as `kvm-inspect dump` does, of a guest that QEMU has dumped:
//!
//! ```text
//! core-of-dump DUMP CORE [CORE_FOR_GDB]
//! ```
//!
//! DUMP is a file of QEMU's `dump-guest-memory`, of a Linux guest. So the files can be tested
//! without the module and without KVM.

use std::{error::Error, ffi::OsStr, fs::File, path::Path, process::ExitCode};

use kvm_inspect_tool::{
    core::{
        elf::{self, Mapping, Options},
        Copied, CpuNote, Notes, Range, Ranges, Writer,
    },
    guest::{CoreFile, GuestMemory},
    linux::{candidates, prove, Candidate, DirectMap, MAX_CANDIDATES},
    output::{Existing, Output},
    paging::{ControlRegisters, RunLimit},
    registers::{Registers, Segment, Table},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How much is copied at a time.
const CHUNK: u64 = 1 << 20;

/// Linux has it in long mode. QEMU's notes do not tell.
const EFER: u64 = 0xd01;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let result = match arguments.as_slice() {
        [dump, core] => convert(dump, core, None),
        [dump, core, for_gdb] => convert(dump, core, Some(for_gdb)),
        _ => Err("usage: core-of-dump DUMP CORE [CORE_FOR_GDB]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("core-of-dump: error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn convert(dump: &OsStr, core: &OsStr, for_gdb: Option<&OsStr>) -> Result<()> {
    let dump = CoreFile::open(File::open(dump)?)?;
    let vcpus: Vec<_> = dump
        .notes()
        .iter()
        .filter(|note| note.name == b"QEMU")
        .collect();
    let vcpus: Vec<_> = vcpus.iter().map(|note| registers(&note.content)).collect();
    let control: Vec<_> = vcpus.iter().map(control_registers).collect();
    let gpas = candidates(&dump, MAX_CANDIDATES)?;
    let proofs = prove(&dump, &gpas, &control);
    let taken = proofs.taken().ok_or("there is no VMCOREINFO of a kernel")?;
    let kernel = taken.kernel.as_ref().map_err(ToString::to_string)?;
    let map = DirectMap::find(kernel, taken.pointer.as_ref().ok());
    let map = map.ok_or("there is no direct map")?;
    let notes = notes(vcpus, taken);
    let options = Options {
        direct_map_base: Some(map.base),
        ..Options::default()
    };
    write(&dump, core, &notes, &options)?;
    if let Some(path) = for_gdb {
        let runs = kernel.mappings(RunLimit::default());
        let mapping = runs.map(|run| {
            run.map(|run| Mapping {
                gva: run.gva,
                gpa: run.gpa,
                size: run.length,
            })
        });
        let options = Options {
            kernel_mappings: mapping.collect::<std::result::Result<_, _>>()?,
            ..options
        };
        write(&dump, path, &notes, &options)?;
    }
    println!(
        "{} at {:#x}, {:?}, direct map at {:#x}",
        taken.note.info.os_release().unwrap_or("?"),
        taken.note.gpa,
        taken.proof(),
        map.base
    );
    Ok(())
}

fn notes(vcpus: Vec<Registers>, taken: &Candidate<'_>) -> Notes {
    let cpus = (0..).zip(vcpus).map(|(cpu, registers)| CpuNote {
        cpu,
        registers: Some(registers),
    });
    Notes {
        cpus: cpus.collect(),
        vmcoreinfo: Some(taken.note.info.text().as_bytes().to_vec()),
        own: r#"{"manifest_version":1}"#.to_owned(),
    }
}

fn write(memory: &CoreFile, path: &OsStr, notes: &Notes, options: &Options) -> Result<()> {
    let ranges = memory.ranges().iter();
    let ranges = ranges.map(|range| Range::new(range.start, range.end - range.start));
    let layout = elf::layout(&Ranges::new(ranges)?, notes, options)?;
    let output = Output::create(Path::new(path), Existing::Replace)?;
    let mut writer = Writer::begin(output, layout)?;
    let mut buffer = Vec::new();
    for range in memory.ranges() {
        for gpa in (range.start..range.end).step_by(usize::try_from(CHUNK)?) {
            buffer.resize(usize::try_from(CHUNK.min(range.end - gpa))?, 0);
            memory.read(gpa, &mut buffer)?;
            writer.write(gpa, &buffer, Copied::InTime)?;
        }
    }
    writer.finish()?.output.commit(None)?;
    Ok(())
}

/// A note of QEMU (`QEMUCPUState`, `target/i386/arch_dump.c`).
struct State<'a>(&'a [u8]);

impl State<'_> {
    fn number(&self, at: usize, size: usize) -> u64 {
        let bytes = self.0.iter().skip(at).take(size);
        bytes
            .rev()
            .fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }

    fn general(&self, index: usize) -> u64 {
        self.number(8 + 8 * index, 8)
    }

    fn control(&self, index: usize) -> u64 {
        self.number(8 + 8 * 18 + 24 * 10 + 8 * index, 8)
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "they are fields of so many bits"
    )]
    fn segment(&self, index: usize) -> Segment {
        let at = 8 + 8 * 18 + 24 * index;
        let flags = self.number(at + 8, 4);
        let bit = |shift: u32| (flags >> shift) & 1 == 1;
        Segment {
            selector: self.number(at, 4) as u16,
            limit: self.number(at + 4, 4) as u32,
            base: self.number(at + 16, 8),
            kind: ((flags >> 8) & 0xf) as u8,
            s: bit(12),
            dpl: ((flags >> 13) & 3) as u8,
            present: bit(15),
            avl: bit(20),
            l: bit(21),
            db: bit(22),
            g: bit(23),
            unusable: false,
        }
    }

    fn table(&self, index: usize) -> Table {
        let Segment { base, limit, .. } = self.segment(index);
        let limit = u16::try_from(limit).unwrap_or(u16::MAX);
        Table { base, limit }
    }
}

fn registers(note: &[u8]) -> Registers {
    let state = State(note);
    Registers {
        rax: state.general(0),
        rbx: state.general(1),
        rcx: state.general(2),
        rdx: state.general(3),
        rsi: state.general(4),
        rdi: state.general(5),
        rsp: state.general(6),
        rbp: state.general(7),
        r8: state.general(8),
        r9: state.general(9),
        r10: state.general(10),
        r11: state.general(11),
        r12: state.general(12),
        r13: state.general(13),
        r14: state.general(14),
        r15: state.general(15),
        rip: state.general(16),
        rflags: state.general(17),
        cs: state.segment(0),
        ds: state.segment(1),
        es: state.segment(2),
        fs: state.segment(3),
        gs: state.segment(4),
        ss: state.segment(5),
        ldt: state.segment(6),
        tr: state.segment(7),
        gdt: state.table(8),
        idt: state.table(9),
        cr0: state.control(0),
        cr2: state.control(2),
        cr3: state.control(3),
        cr4: state.control(4),
        cr8: 0,
        efer: EFER,
        kernel_gs_base: state.control(5),
    }
}

fn control_registers(registers: &Registers) -> ControlRegisters {
    ControlRegisters {
        cr0: registers.cr0,
        cr3: registers.cr3,
        cr4: registers.cr4,
        efer: registers.efer,
    }
}
