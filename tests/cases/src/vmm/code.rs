// SPDX-License-Identifier: GPL-2.0

//! The programs that guests run.
//!
//! Each program first tells the VMM that it runs, with a byte to [`READY_PORT`]. None uses a stack.
//! All run at any address.

use std::{arch::global_asm, slice};

/// The port for a program's message that it runs.
pub(crate) const READY_PORT: u16 = 0x10;

/// A program.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    /// Its code.
    pub(crate) code: &'static [u8],
    /// The offset of the loop that it ends in.
    pub(crate) final_loop: u64,
}

/// The addresses of a program in this process.
#[repr(C)]
struct Symbols {
    start: *const u8,
    final_loop: *const u8,
    end: *const u8,
}

impl Program {
    /// # Safety
    ///
    /// Between `start` and `end` is read-only memory, and `final_loop` is in it.
    unsafe fn new(symbols: &Symbols) -> Self {
        let len = symbols.end.addr() - symbols.start.addr();
        Self {
            // SAFETY: By this function's contract.
            code: unsafe { slice::from_raw_parts(symbols.start, len) },
            final_loop: (symbols.final_loop.addr() - symbols.start.addr()) as u64,
        }
    }
}

/// Makes a function that returns a program for a code segment of `$bits` bits. It tells the VMM
/// that it runs, does `$first` once, and then `$final_loop`, where `772b` is that loop's beginning.
macro_rules! program {
    ($(#[$doc:meta])* $name:ident, $bits:literal, $first:expr, $final_loop:expr) => {
        global_asm!(
            ".pushsection .data.rel.ro.guest, \"aw\"",
            ".balign 8",
            concat!(".globl guest_", stringify!($name)),
            concat!(".hidden guest_", stringify!($name)),
            concat!("guest_", stringify!($name), ":"),
            ".quad 771f, 772f, 773f",
            ".popsection",
            ".pushsection .rodata.guest, \"a\"",
            concat!(".code", $bits),
            "771:",
            "out %al, $0x10",
            $first,
            "772:",
            $final_loop,
            "773:",
            ".code64",
            ".popsection",
            options(att_syntax)
        );

        $(#[$doc])*
        pub(crate) fn $name() -> Program {
            extern "C" {
                #[link_name = concat!("guest_", stringify!($name))]
                static SYMBOLS: Symbols;
            }
            // SAFETY: The assembly above defines the symbols, and nobody changes the memory.
            unsafe { Program::new(&SYMBOLS) }
        }
    };
}

/// The length of the first of the two instructions in [`spin`].
pub(crate) const SPIN_PAUSE_LEN: u64 = 2;

program!(
    /// Spins, in any mode. At a `pause` the emulator runs its other processor, which otherwise
    /// waits for the end of this one's turn.
    spin, "64", "", "pause; jmp 772b"
);

program!(
    /// Spins without a `pause`.
    bare_spin, "64", "", "jmp 772b"
);

program!(
    /// Halts, in any mode, again and again.
    halt, "64", "", "hlt; jmp 772b"
);

program!(
    /// Reads a number from the port in DX and writes the number plus one there, again and again.
    /// RBX counts.
    port_io, "64", "", "in %dx, %eax; inc %eax; out %eax, %dx; inc %rbx; jmp 772b"
);

program!(
    /// Counts in RAX, adds up the numbers in RBX, and keeps both at RDI.
    count, "64", "",
    "inc %rax; add %rax, %rbx; mov %rax, (%rdi); mov %rbx, 8(%rdi); pause; jmp 772b"
);

program!(
    /// Reads at RSI, where there is no memory, and spins.
    mmio, "64", "mov (%rsi), %rax", "jmp 772b"
);

program!(
    /// Runs the guest whose control block is at RAX (see `nested.rs`). At RDI it counts the guest's
    /// VMMCALLs, after which the guest goes on.
    nested, "64", "", "vmrun %rax; addq $3, 0x578(%rax); incq (%rdi); jmp 772b"
);

program!(
    /// The inner guest: counts in the word after the outer guest's counter, and makes a VMMCALL.
    nested_guest, "64", "", "incq 8(%rdi); vmmcall; jmp 772b"
);

/// The beginning of [`long_halt`] and [`long_spin`].
macro_rules! long_registers {
    () => {
        "lgdt (%rdi)
        lidt 16(%rdi)
        mov $0x20, %eax; mov %eax, %ss
        mov $0x33, %eax; mov %eax, %ds; mov %eax, %fs
        xor %eax, %eax; mov %eax, %es
        mov $0x38, %eax; ltr %ax
        mov $0x48, %eax; lldt %ax
        mov $0xc0000101, %ecx; mov $0x01234567, %eax; mov $0x00007abc, %edx; wrmsr
        movabs $0x0000123456789abc, %rax; mov %rax, %cr2
        mov $9, %eax; mov %rax, %cr8
        movabs $0xa0a1a2a3a4a5a6a7, %rax
        movabs $0xb0b1b2b3b4b5b6b7, %rbx
        movabs $0xc0c1c2c3c4c5c6c7, %rcx
        movabs $0xd0d1d2d3d4d5d6d7, %rdx
        movabs $0x5051525354555657, %rsi
        movabs $0xd1d1d1d1d1d1d1d1, %rdi
        movabs $0x0000000000012340, %rsp
        movabs $0xbabbbcbdbebfc0c1, %rbp
        movabs $0x0808080808080808, %r8
        movabs $0x0909090909090909, %r9
        movabs $0x1010101010101010, %r10
        movabs $0x1111111111111111, %r11
        movabs $0x1212121212121212, %r12
        movabs $0x1313131313131313, %r13
        movabs $0x1414141414141414, %r14
        movabs $0x1515151515151515, %r15
        stc; std"
    };
}

program!(
    /// Loads every register in long mode, with descriptors at RDI, and halts.
    long_halt, "64", long_registers!(), "hlt; jmp 772b"
);

program!(
    /// As [`long_halt`], but spins.
    long_spin, "64", long_registers!(), "jmp 772b"
);

/// The beginning of [`protected_halt`] and [`protected_spin`].
macro_rules! protected_registers {
    () => {
        "lgdt (%edi)
        lidt 16(%edi)
        mov $0x20, %eax; mov %eax, %ss
        mov $0x33, %eax; mov %eax, %ds; mov %eax, %fs
        xor %eax, %eax; mov %eax, %es
        mov $0x60, %eax; ltr %ax
        mov $0x48, %eax; lldt %ax
        mov $0x12345678, %eax; mov %eax, %cr2
        mov $0xa0a1a2a3, %eax
        mov $0xb0b1b2b3, %ebx
        mov $0xc0c1c2c3, %ecx
        mov $0xd0d1d2d3, %edx
        mov $0x50515253, %esi
        mov $0xd1d1d1d1, %edi
        mov $0x00012340, %esp
        mov $0xbabbbcbd, %ebp
        stc; std"
    };
}

program!(
    /// Loads every register in protected mode, with descriptors at EDI, and halts.
    protected_halt, "32", protected_registers!(), "hlt; jmp 772b"
);

program!(
    /// As [`protected_halt`], but spins.
    protected_spin, "32", protected_registers!(), "jmp 772b"
);

/// The beginning of [`real_halt`] and [`real_spin`].
macro_rules! real_registers {
    () => {
        "lgdtl (%di)
        lidtl 16(%di)
        mov $0x1234, %ax; mov %ax, %ss
        mov $0x2345, %ax; mov %ax, %ds
        mov $0x3456, %ax; mov %ax, %es
        mov $0x4567, %ax; mov %ax, %fs
        mov $0x5678, %ax; mov %ax, %gs
        mov $0xa0a1a2a3, %eax
        mov $0xb0b1b2b3, %ebx
        mov $0xc0c1c2c3, %ecx
        mov $0xd0d1d2d3, %edx
        mov $0x50515253, %esi
        mov $0xd1d1d1d1, %edi
        mov $0x00002340, %esp
        mov $0xbabbbcbd, %ebp
        stc; std"
    };
}

program!(
    /// Loads every register in real mode, with descriptors at DI, and halts.
    real_halt, "16", real_registers!(), "hlt; jmp 772b"
);

program!(
    /// As [`real_halt`], but spins.
    real_spin, "16", real_registers!(), "jmp 772b"
);
