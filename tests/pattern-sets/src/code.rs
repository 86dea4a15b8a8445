// SPDX-License-Identifier: GPL-2.0

//! Patterns of bytes: with holes, and code as rules have it.

use std::fmt::Write as _;

use crate::random::Random;

/// The length of a pattern of code.
const SHORTEST: usize = 10;
const LONGEST: usize = 24;

/// Instructions that much code has. `?` is an open nibble, `#` a random digit.
const COMMON: [&str; 24] = [
    // mov reg, [reg + disp8]
    "48 8b 4? ??",
    "8b 45 ??",
    "4c 8b ?? ??",
    // mov [rsp + disp8], reg
    "48 89 ?? 24 ??",
    "48 89 5c 24 08",
    // lea reg, [rip + disp32]
    "48 8d ?? ?? ?? ?? ??",
    "48 8d 0d ?? ?? ?? ??",
    // call rel32; call [rip + disp32]
    "e8 ?? ?? ?? ??",
    "ff 15 ?? ?? ?? ??",
    // test and jz or jnz
    "85 c0 74 ??",
    "48 85 c0 75 ??",
    "0f 84 ?? ?? ?? ??",
    "84 c0 0f 85 ?? ?? ?? ??",
    // xor reg, reg
    "33 d2",
    "45 33 c0",
    "31 c?",
    // push rdi; sub rsp, imm8
    "57 48 83 ec ??",
    // movzx reg, byte [reg + reg]
    "0f b6 ?? ??",
    "44 0f b6 04 ??",
    // inc reg; add reg, imm8
    "ff c?",
    "48 83 c? 01",
    // mov reg, reg
    "48 8b d?",
    "49 8b ce",
    // jmp rel8
    "eb ??",
];

/// Instructions with a constant, by which a program is known.
const SPECIAL: [&str; 10] = [
    // mov reg, imm32
    "b9 ## ## ## ##",
    "41 b8 ## ## 00 00",
    // mov dword [rbp + disp8], imm32
    "c7 45 ?? ## ## ## ##",
    // cmp reg, imm32, and jz
    "3d ## ## ## ## 74 ??",
    "81 f? ## ## ## ## 0f 84 ?? ?? ?? ??",
    // xor byte [reg + reg], imm8
    "80 34 ?? ##",
    // imul reg, reg, imm32
    "69 c? ## ## ## ##",
    // rol reg, imm8; xor reg, imm32
    "c1 c? ## 35 ## ## ## ##",
    // and reg, imm8; cmp al, imm8, and jnz
    "83 e? ## 3c ## 75 ??",
    // lea reg, [reg * 4 + disp32]
    "8d 04 8d ## ## 00 00",
];

/// Returns 12 to 20 random bytes, each fourth open.
pub(super) fn open_bytes(random: &mut Random) -> String {
    let len = 12 + random.below(9);
    let mut spec = String::from("hex:");
    for index in 0..len {
        if index % 4 == 3 {
            spec += "??";
        } else {
            let _ = write!(spec, "{:02x}", random.byte());
        }
    }
    spec
}

/// Returns a sequence of instructions that no compiler writes for many programs.
pub(super) fn opcodes(random: &mut Random) -> String {
    loop {
        let len = SHORTEST + random.below(LONGEST - SHORTEST + 1);
        let special = random.below(2);
        let (mut bytes, mut is_special) = (Vec::new(), false);
        while bytes.len() < len {
            let is_next = !is_special && random.below(3) == special;
            let instruction = random.one(if is_next { &SPECIAL } else { &COMMON });
            is_special |= is_next;
            bytes.extend(instruction.split(' ').map(|byte| digits(byte, random)));
        }
        let given = bytes.iter().filter(|byte| !byte.contains('?')).count();
        if bytes.len() <= LONGEST && given >= if is_special { 6 } else { 10 } {
            return format!("hex:{}", bytes.concat());
        }
    }
}

/// Returns a byte's two digits, with a random one for each `#`.
fn digits(byte: &str, random: &mut Random) -> String {
    let digit = |digit| match digit {
        '#' => char::from_digit(u32::from(random.byte()) % 16, 16).expect("a digit"),
        digit => digit,
    };
    byte.chars().map(digit).collect()
}
