// SPDX-License-Identifier: GPL-2.0

//! ELF core files, read back: one test for each rule of their readers.

mod guest;

use kvm_inspect_tool::{
    core::{
        elf::{self, ElfError, Mapping, Options},
        Copied, CpuNote, Notes, Range, Ranges,
    },
    registers::Registers,
};
use object::{
    elf::{FileHeader64, ProgramHeader64, EM_X86_64, ET_CORE, PT_LOAD, PT_NOTE},
    read::elf::{FileHeader, ProgramHeader},
    LittleEndian,
};
use proptest::prelude::*;

use crate::guest::{content, notes, ranges, written, PAGE};

const LE: LittleEndian = LittleEndian;

type Elf = FileHeader64<LittleEndian>;
type Segment = ProgramHeader64<LittleEndian>;

fn header(file: &[u8]) -> &Elf {
    Elf::parse(file).expect("an ELF file")
}

fn segments(file: &[u8]) -> &[Segment] {
    header(file).program_headers(LE, file).expect("segments")
}

fn loads(file: &[u8]) -> &[Segment] {
    &segments(file)[1..]
}

/// A note as its readers see it.
#[derive(Debug, PartialEq)]
struct Note {
    name: String,
    kind: u32,
    desc: Vec<u8>,
}

fn read_notes(file: &[u8]) -> Vec<Note> {
    let segment = &segments(file)[0];
    let mut notes = segment.notes(LE, file).expect("notes").expect("PT_NOTE");
    let mut all = Vec::new();
    while let Some(note) = notes.next().expect("a note") {
        all.push(Note {
            name: String::from_utf8(note.name().to_vec()).expect("a name"),
            kind: note.n_type(LE).0,
            desc: note.desc().to_vec(),
        });
    }
    all
}

/// Returns a core file of these ranges with all pages in it.
fn core(ranges: &Ranges, options: &Options) -> Vec<u8> {
    let layout = elf::layout(ranges, &notes(2), options).expect("a layout");
    written(layout, |writer| {
        for range in ranges.as_slice() {
            let bytes = content(*range);
            let result = writer.write(range.gpa, &bytes, Copied::InTime);
            result.expect("written");
        }
    })
}

fn direct_map() -> Options {
    Options {
        direct_map_base: Some(0xffff_8880_0000_0000),
        ..Options::default()
    }
}

#[test]
fn the_header_is_that_of_a_core_file() {
    let file = core(&ranges(&[(0, 4), (16, 2)]), &direct_map());
    let header = header(&file);
    assert_eq!(file[..8], [0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    assert_eq!(header.e_type(LE), ET_CORE);
    assert_eq!(header.e_machine(LE), EM_X86_64);
    assert_eq!(header.e_version(LE), 1);
    assert_eq!(header.e_phoff(LE), 64);
    assert_eq!((header.e_ehsize(LE), header.e_phentsize(LE)), (64, 56));
    assert_eq!((header.e_phnum(LE), header.e_shnum(LE)), (3, 0));
    assert_eq!((header.e_shoff(LE), header.e_shentsize(LE)), (0, 0));
}

#[test]
fn the_only_note_segment_comes_first() {
    let file = core(&ranges(&[(0, 4), (16, 2)]), &direct_map());
    let kinds: Vec<_> = segments(&file).iter().map(|one| one.p_type(LE)).collect();
    assert_eq!(kinds, [PT_NOTE, PT_LOAD, PT_LOAD]);
    let note = &segments(&file)[0];
    assert_eq!(note.p_offset(LE), 64 + 3 * 56);
    assert_eq!(note.p_filesz(LE), note.p_memsz(LE));
}

#[test]
fn segments_are_what_all_readers_take() {
    let file = core(&ranges(&[(16, 2), (0, 2), (2, 2)]), &direct_map());
    let loads = loads(&file);
    let places: Vec<_> = loads
        .iter()
        .map(|one| (one.p_paddr(LE), one.p_memsz(LE)))
        .collect();
    assert_eq!(
        places,
        [(0, 4 * PAGE), (16 * PAGE, 2 * PAGE)],
        "neighbours are one"
    );
    for load in loads {
        assert_eq!(load.p_filesz(LE), load.p_memsz(LE));
        assert_eq!(load.p_align(LE), 0);
        assert_eq!(load.p_offset(LE) % PAGE, 0);
        assert_eq!(load.p_vaddr(LE), 0xffff_8880_0000_0000 + load.p_paddr(LE));
    }
    assert_eq!(loads[0].p_offset(LE), PAGE, "it follows the notes");
    let end = loads[1].p_offset(LE) + loads[1].p_filesz(LE);
    assert_eq!(end, file.len() as u64);
}

#[test]
fn physical_addresses_stand_in_for_an_unknown_direct_map() {
    let file = core(&ranges(&[(3, 4)]), &Options::default());
    assert_eq!(loads(&file)[0].p_vaddr(LE), 3 * PAGE);
}

#[test]
fn memory_is_where_the_segments_say() {
    let ranges = ranges(&[(0, 4), (16, 2)]);
    let file = core(&ranges, &direct_map());
    for (load, range) in loads(&file).iter().zip(ranges.as_slice()) {
        assert_eq!(load.data(LE, &*file).expect("data"), content(*range));
    }
}

#[test]
fn notes_come_in_the_order_that_crash_needs() {
    let mut given = notes(3);
    given.cpus.rotate_left(1);
    given.vmcoreinfo = Some(b"OSRELEASE=7.3.4\n".to_vec());
    let layout = elf::layout(&ranges(&[(0, 1)]), &given, &direct_map()).expect("a layout");
    let file = written(layout, |_| {});
    let read = read_notes(&file);
    let heads: Vec<_> = read
        .iter()
        .map(|note| (note.name.as_str(), note.kind))
        .collect();
    let expected = [
        ("CORE", 1),
        ("CORE", 1),
        ("CORE", 1),
        ("QEMU", 0),
        ("QEMU", 0),
        ("QEMU", 0),
        ("VMCOREINFO", 0),
        ("KVM_INSPECT", 0),
    ];
    assert_eq!(heads, expected);
    for cpu in 0..3 {
        let registers = guest::registers(cpu);
        let at = cpu as usize;
        assert_eq!(read[at].desc, registers.prstatus(cpu + 1));
        assert_eq!(read[at].desc[32], u8::try_from(cpu + 1).expect("small"));
        assert_eq!(read[at + 3].desc, registers.qemu_state());
    }
    assert_eq!(read[6].desc, b"OSRELEASE=7.3.4\n");
    assert_eq!(read[7].desc.trim_ascii_end(), given.own.as_bytes());
}

#[test]
fn a_cpu_without_registers_keeps_its_place() {
    let mut given = notes(2);
    given.cpus[0] = CpuNote {
        cpu: 0,
        registers: None,
    };
    let layout = elf::layout(&ranges(&[(0, 1)]), &given, &direct_map()).expect("a layout");
    let read = read_notes(&written(layout, |_| {}));
    assert_eq!(read[0].desc, Registers::default().prstatus(1));
    assert_eq!(read[3].desc, guest::registers(1).qemu_state());
}

/// Returns ranges of a page each, apart from each other.
fn apart(count: u64) -> Ranges {
    let range = |index| Range::new(2 * index * PAGE, PAGE);
    Ranges::new((0..count).map(range)).expect("ranges")
}

#[test]
fn a_145th_segment_is_refused() {
    let result = elf::layout(&apart(144), &notes(1), &direct_map());
    assert_eq!(result.expect("a layout").extents().len(), 144);
    let error = elf::layout(&apart(145), &notes(1), &direct_map()).unwrap_err();
    assert_eq!(error, ElfError::TooManyRanges(145));
    let text = error.to_string();
    assert!(
        text.contains("145") && text.contains("; write another format"),
        "{text}"
    );
}

#[test]
fn room_is_left_for_longer_notes() {
    let ranges = ranges(&[(0, 2)]);
    let options = Options {
        room: 5 * PAGE + 1,
        ..direct_map()
    };
    let first = elf::layout(&ranges, &notes(1), &options).expect("a layout");
    assert_eq!(first.extents()[0].offset, 6 * PAGE);
    let mut later = notes(1);
    later.vmcoreinfo = Some(vec![b'x'; 3000]);
    let later = elf::layout(&ranges, &later, &options).expect("a layout");
    assert_eq!(later.extents(), first.extents());
}

#[test]
fn addresses_that_overflow_are_refused() {
    let ranges = ranges(&[(16, 16)]);
    let based = |base| Options {
        direct_map_base: Some(base),
        ..Options::default()
    };
    let highest = 0u64.wrapping_sub(32 * PAGE);
    assert!(elf::layout(&ranges, &notes(1), &based(highest)).is_ok());
    let error = elf::layout(&ranges, &notes(1), &based(highest + PAGE));
    assert_eq!(error, Err(ElfError::DirectMap(highest + PAGE)));
    let room = Options {
        room: u64::MAX,
        ..Options::default()
    };
    let error = elf::layout(&ranges, &notes(1), &room);
    assert_eq!(error, Err(ElfError::TooBig));
}

const TEXT: u64 = 0xffff_ffff_8100_0000;

fn mapped(mappings: &[(u64, u64, u64)]) -> Options {
    let mapping = |(gva, page, pages): &(u64, u64, u64)| Mapping {
        gva: *gva,
        gpa: page * PAGE,
        size: pages * PAGE,
    };
    Options {
        kernel_mappings: mappings.iter().map(mapping).collect(),
        ..direct_map()
    }
}

#[test]
fn gdb_gets_what_the_kernel_has_mapped() {
    let vmalloc = 0xffff_c900_0000_0000;
    let ranges = ranges(&[(0, 4), (16, 4)]);
    let options = mapped(&[
        (TEXT, 1, 1),
        // It continues the first.
        (TEXT + PAGE, 2, 1),
        // The direct map, which is there already.
        (0xffff_8880_0000_0000 + 16 * PAGE, 16, 2),
        // Parts of it are no RAM.
        (vmalloc, 2, 16),
        (vmalloc + 20 * PAGE, 8, 2),
    ]);
    let file = core(&ranges, &options);
    let found: Vec<_> = loads(&file)[2..]
        .iter()
        .map(|one| {
            (
                one.p_vaddr(LE),
                one.p_paddr(LE) / PAGE,
                one.p_memsz(LE) / PAGE,
            )
        })
        .collect();
    let expected = [(vmalloc, 2, 2), (vmalloc + 14 * PAGE, 16, 2), (TEXT, 1, 2)];
    assert_eq!(found, expected);
    for load in loads(&file) {
        let range = Range::new(load.p_paddr(LE), load.p_filesz(LE));
        assert_eq!(load.data(LE, &*file).expect("data"), content(range));
    }
    let memory = file.len() as u64 - loads(&file)[0].p_offset(LE);
    assert_eq!(memory, ranges.size(), "the bytes are shared");
}

#[test]
fn mappings_may_be_at_the_highest_addresses() {
    let last = 0u64.wrapping_sub(PAGE);
    let file = core(
        &ranges(&[(0, 2)]),
        &mapped(&[(last, 0, 1), (last - PAGE, 1, 1)]),
    );
    let found: Vec<_> = loads(&file)[1..]
        .iter()
        .map(|one| one.p_vaddr(LE))
        .collect();
    assert_eq!(found, [last - PAGE, last]);
}

#[test]
fn strange_mappings_are_refused() {
    let last = 0u64.wrapping_sub(PAGE);
    let refused = |mappings: &[(u64, u64, u64)]| {
        let result = elf::layout(&ranges(&[(0, 2)]), &notes(1), &mapped(mappings));
        assert!(matches!(result, Err(ElfError::Mapping(_))), "{mappings:x?}");
    };
    refused(&[(TEXT + 1, 0, 1)]);
    refused(&[(last, 0, 2)]);
    refused(&[(TEXT, 0, 2), (TEXT + PAGE, 0, 1)]);
    refused(&[(TEXT, 0, 1), (TEXT, 1, 1)]);
}

#[test]
fn what_is_mapped_again_and_again_is_left_out() {
    let mappings: Vec<_> = (0..64)
        .map(|at| (TEXT + 16 * at * PAGE, 1, 1))
        .chain((64..1000).map(|at| (TEXT + 16 * at * PAGE, 3, 1)))
        .collect();
    let file = core(&ranges(&[(0, 4)]), &mapped(&mappings));
    let pages: Vec<_> = loads(&file)[1..]
        .iter()
        .map(|one| one.p_paddr(LE) / PAGE)
        .collect();
    assert_eq!(pages, [1; 64]);
}

#[test]
fn more_mappings_than_an_elf_file_can_have_are_refused() {
    let many = |count: u64| {
        let mapping = |at| (TEXT + 2 * at * PAGE, 2 * (at % 32768), 1);
        let mappings: Vec<_> = (0..count).map(mapping).collect();
        elf::layout(&ranges(&[(0, 65536)]), &notes(1), &mapped(&mappings))
    };
    // With the RAM and the notes, 65,534 headers: the last number that means a number.
    assert!(many(65_532).is_ok());
    assert_eq!(many(65_533), Err(ElfError::TooManyMappings(65_534)));
}

proptest! {
    #[test]
    fn any_guest_makes_a_core_file_under_the_contract(
        pieces in proptest::collection::vec((0u64..1000, 1u64..20), 1..60),
        cpus in 1u32..6,
        room in 0u64..100_000,
    ) {
        let ranges = ranges(&pieces);
        let options = Options { room, ..direct_map() };
        let layout = elf::layout(&ranges, &notes(cpus), &options).expect("a layout");
        let size = layout.size();
        let file = written(layout, |_| {});
        prop_assert_eq!(file.len() as u64, size);
        prop_assert_eq!(read_notes(&file).len(), 2 * cpus as usize + 1);
        let mut offset = loads(&file)[0].p_offset(LE);
        prop_assert!(offset >= room);
        let mut end = None;
        for load in loads(&file) {
            prop_assert!(end < Some(load.p_paddr(LE)));
            prop_assert_eq!(load.p_offset(LE), offset);
            offset += load.p_filesz(LE);
            end = Some(load.p_paddr(LE) + load.p_memsz(LE));
        }
        prop_assert_eq!(offset, size);
        let all: u64 = loads(&file).iter().map(|load| load.p_memsz(LE)).sum();
        prop_assert_eq!(all, ranges.size());
    }

    #[test]
    fn no_notes_and_no_mappings_make_it_panic(
        mappings in proptest::collection::vec(any::<(u64, u64, u64)>(), 0..8),
        base in proptest::option::of(any::<u64>()),
        room in 0u64..10_000,
        cpus in proptest::collection::vec(0u32..4, 0..4),
    ) {
        let mapping = |&(gva, gpa, size): &(u64, u64, u64)| Mapping { gva, gpa, size };
        let options = Options {
            direct_map_base: base,
            room,
            kernel_mappings: mappings.iter().map(mapping).collect(),
        };
        let cpu = |cpu: &u32| CpuNote { cpu: *cpu, registers: None };
        let notes = Notes { cpus: cpus.iter().map(cpu).collect(), ..Notes::default() };
        let _ = elf::layout(&ranges(&[(0, 4)]), &notes, &options);
    }
}
