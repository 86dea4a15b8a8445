// SPDX-License-Identifier: GPL-2.0

//! Notes of CPUs, compared with those that QEMU has written.

use kvm_inspect_tool::{
    hex,
    registers::{Registers, Segment, Table},
};

const RECORDED: &str = include_str!("qemu-notes.txt");

/// What `Segment` has of the flags. In its emulator, QEMU keeps the bytes of the base that are in
/// the same word of the descriptor, too.
const FLAGS: u32 = 0x00f0_ff00;

/// Returns the recorded notes of a name, in the order of the CPUs.
fn recorded(name: &str) -> Vec<Vec<u8>> {
    let mut notes: Vec<(&str, String)> = Vec::new();
    for line in RECORDED.lines().skip(1) {
        match line {
            "CORE" | "QEMU" => notes.push((line, String::new())),
            digits => notes
                .last_mut()
                .expect("a name comes first")
                .1
                .push_str(digits),
        }
    }
    let found = notes.iter().filter(|note| note.0 == name);
    found
        .map(|note| hex::bytes(&note.1).expect("digits"))
        .collect()
}

fn half(note: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(note[offset..offset + 4].try_into().expect("4 bytes"))
}

fn word(note: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(note[offset..offset + 8].try_into().expect("8 bytes"))
}

fn segment(note: &[u8], index: usize) -> Segment {
    let offset = 152 + 24 * index;
    let flags = half(note, offset + 8);
    let bits = |shift: u32, mask: u32| u8::try_from((flags >> shift) & mask).expect("few bits");
    let bit = |shift| bits(shift, 1) == 1;
    Segment {
        base: word(note, offset + 16),
        limit: half(note, offset + 4),
        selector: u16::try_from(half(note, offset)).expect("16 bits"),
        kind: bits(8, 0xf),
        present: bit(15),
        dpl: bits(13, 3),
        db: bit(22),
        s: bit(12),
        l: bit(21),
        g: bit(23),
        avl: bit(20),
        unusable: false,
    }
}

fn table(note: &[u8], index: usize) -> Table {
    let offset = 152 + 24 * index;
    Table {
        base: word(note, offset + 16),
        limit: u16::try_from(half(note, offset + 4)).expect("16 bits"),
    }
}

/// Returns the registers in a note of QEMU.
fn registers(note: &[u8]) -> Registers {
    let general = |index: usize| word(note, 8 + 8 * index);
    Registers {
        rax: general(0),
        rbx: general(1),
        rcx: general(2),
        rdx: general(3),
        rsi: general(4),
        rdi: general(5),
        rsp: general(6),
        rbp: general(7),
        r8: general(8),
        r9: general(9),
        r10: general(10),
        r11: general(11),
        r12: general(12),
        r13: general(13),
        r14: general(14),
        r15: general(15),
        rip: general(16),
        rflags: general(17),
        cs: segment(note, 0),
        ds: segment(note, 1),
        es: segment(note, 2),
        fs: segment(note, 3),
        gs: segment(note, 4),
        ss: segment(note, 5),
        ldt: segment(note, 6),
        tr: segment(note, 7),
        gdt: table(note, 8),
        idt: table(note, 9),
        cr0: word(note, 392),
        cr2: word(note, 408),
        cr3: word(note, 416),
        cr4: word(note, 424),
        kernel_gs_base: word(note, 432),
        ..Registers::default()
    }
}

#[test]
fn notes_are_those_of_qemu() {
    let (core, qemu) = (recorded("CORE"), recorded("QEMU"));
    assert_eq!((core.len(), qemu.len()), (3, 3));
    for (pid, (core, mut qemu)) in (1..).zip(core.into_iter().zip(qemu)) {
        let registers = registers(&qemu);
        assert!(registers.prstatus(pid)[..] == core, "CPU {}", pid - 1);
        for index in 0..10 {
            let flags = 152 + 24 * index + 8;
            let known = half(&qemu, flags) & FLAGS;
            qemu[flags..flags + 4].copy_from_slice(&known.to_le_bytes());
        }
        assert!(registers.qemu_state()[..] == qemu, "CPU {}", pid - 1);
    }
}
