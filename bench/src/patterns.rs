// SPDX-License-Identifier: GPL-2.0

//! The patterns: strings that an incident responder searches for, the same in each run.

use std::fmt::Write as _;

/// The numbers of patterns in the sets.
pub(crate) const SETS: [usize; 4] = [1, 8, 64, 256];

/// A pattern, in the module's notation and as bytes.
#[derive(Clone, Debug)]
pub(crate) struct Needle {
    pub(crate) spec: String,
    pub(crate) bytes: Vec<u8>,
}

/// Returns the first `count` patterns.
pub(crate) fn first(count: usize) -> Vec<Needle> {
    let mut random = Random(0x1b87_3593_cc9e_2d51);
    (0..count).map(|index| nth(index, &mut random)).collect()
}

/// Returns a key, an address, a header, a name in UTF-16, or code, in turns.
fn nth(index: usize, random: &mut Random) -> Needle {
    const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
    const HEX: &[u8] = b"0123456789abcdef";
    match index % 8 {
        0 => text(&format!("AKIA{}", random.string(UPPER, 16))),
        1 => {
            let (host, path) = (random.string(LOWER, 9), random.string(LOWER, 6));
            text(&format!("https://{host}.example/{path}.php"))
        }
        2 => text(&format!("password={}", random.string(LOWER, 8))),
        3 => text(&format!("ghp_{}", random.string(LOWER, 30))),
        4 => {
            let (head, tail) = (random.string(UPPER, 1), random.string(LOWER, 8));
            utf16(&format!("Se{head}{tail}Privilege"))
        }
        5 => text(&format!(
            "Mutex_{}-{}",
            random.string(HEX, 8),
            random.string(HEX, 4)
        )),
        6 => {
            let mut code = vec![0x48, 0x89, 0x5c, 0x24, 0x08, 0x57, 0x48, 0x83, 0xec];
            code.extend((0..7).map(|_| random.byte()));
            bytes(code)
        }
        _ => text(&format!(
            "{} ransom {}",
            random.string(LOWER, 5),
            random.string(HEX, 8)
        )),
    }
}

fn text(text: &str) -> Needle {
    Needle {
        spec: format!("text:{}", text.replace(' ', "\\s")),
        bytes: text.as_bytes().to_vec(),
    }
}

fn utf16(text: &str) -> Needle {
    Needle {
        spec: format!("utf16:{text}"),
        bytes: text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
    }
}

fn bytes(bytes: Vec<u8>) -> Needle {
    let mut spec = String::from("hex:");
    for byte in &bytes {
        let _ = write!(spec, "{byte:02x}");
    }
    Needle { spec, bytes }
}

/// A generator of numbers that look random (xorshift64*).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&mut self) -> u8 {
        self.word().to_be_bytes()[0]
    }

    fn string(&mut self, alphabet: &[u8], len: usize) -> String {
        let letter = |_| char::from(alphabet[usize::from(self.byte()) % alphabet.len()]);
        (0..len).map(letter).collect()
    }
}
