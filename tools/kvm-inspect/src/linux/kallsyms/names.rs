// SPDX-License-Identifier: GPL-2.0

//! The compressed names of kallsyms (`kallsyms_expand_symbol`).

use super::{super::VmcoreInfo, KallsymsError};
use crate::paging::VirtualMemory;

/// `KSYM_NAME_LEN`, which includes the NUL, plus the type.
const MAX_NAME: usize = 512;
/// The names of a million symbols have about 30 MB.
const MAX_TEXT: usize = 64 << 20;

/// The names, without compression.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// All types and names, one after another.
    text: String,
    /// Where each ends, after a 0 at the beginning.
    ends: Vec<u32>,
}

impl Names {
    pub(super) fn read(
        memory: &VirtualMemory<'_>,
        info: &VmcoreInfo,
        count: u32,
    ) -> Result<Self, KallsymsError> {
        let names = info
            .symbol("kallsyms_names")
            .ok_or(KallsymsError::Missing)?;
        let tokens = read_tokens(memory, info)?;
        let mut bytes = Bytes::new(memory, names);
        let mut names = Self {
            text: String::new(),
            ends: vec![0],
        };
        let mut name = Vec::new();
        for _ in 0..count {
            let mut length = usize::from(bytes.next()?);
            // Since 6.1; a length of 128 and more was not possible before.
            if length & 0x80 != 0 {
                length = (length & 0x7f) | (usize::from(bytes.next()?) << 7);
            }
            name.clear();
            for _ in 0..length {
                name.extend(&tokens[usize::from(bytes.next()?)]);
                if name.len() > MAX_NAME {
                    return Err(KallsymsError::Invalid("a name is too long"));
                }
            }
            names.push(&name)?;
        }
        Ok(names)
    }

    fn push(&mut self, name: &[u8]) -> Result<(), KallsymsError> {
        let is_valid = name.len() > 1 && name.iter().all(u8::is_ascii_graphic);
        let name = std::str::from_utf8(name).ok().filter(|_| is_valid);
        let name = name.ok_or(KallsymsError::Invalid("a name has no type or is not text"))?;
        self.text.push_str(name);
        let end = u32::try_from(self.text.len()).ok();
        let end = end.filter(|_| self.text.len() <= MAX_TEXT);
        let end = end.ok_or(KallsymsError::Invalid("the names are too long"))?;
        self.ends.push(end);
        Ok(())
    }

    /// Returns the type and name of a symbol.
    pub(super) fn get(&self, index: usize) -> Option<(char, &str)> {
        let [start, end] = [index, index + 1].map(|index| self.ends.get(index));
        let text = self.text.get(*start? as usize..*end? as usize)?;
        let kind = text.chars().next()?;
        Some((kind, text.get(1..)?))
    }

    /// Returns the name of a symbol.
    pub(super) fn name(&self, index: usize) -> Option<&str> {
        self.get(index).map(|(_, name)| name)
    }

    /// Returns which symbol is the first with a name.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let mut all = (0..self.ends.len()).map_while(|index| self.name(index));
        all.position(|other| other == name)
    }
}

/// Returns the strings of which names consist.
fn read_tokens(
    memory: &VirtualMemory<'_>,
    info: &VmcoreInfo,
) -> Result<Vec<Vec<u8>>, KallsymsError> {
    let symbol = |name| info.symbol(name).ok_or(KallsymsError::Missing);
    let table = symbol("kallsyms_token_table")?;
    let mut index = [0; 512];
    memory.read(symbol("kallsyms_token_index")?, &mut index)?;
    let starts = index
        .chunks_exact(2)
        .map(|start| u16::from_le_bytes([start[0], start[1]]));
    let mut tokens = Vec::new();
    for start in starts {
        let mut bytes = Bytes::new(memory, table.wrapping_add(u64::from(start)));
        let mut token = Vec::new();
        loop {
            match bytes.next()? {
                0 => break,
                _ if token.len() == MAX_NAME => {
                    return Err(KallsymsError::Invalid("a token is too long"));
                }
                byte => token.push(byte),
            }
        }
        tokens.push(token);
    }
    Ok(tokens)
}

/// Bytes at and after an address. No page is read before its first byte is asked for, as the one
/// after the last byte need not be mapped.
struct Bytes<'a> {
    memory: &'a VirtualMemory<'a>,
    page: [u8; 4096],
    /// How many bytes of the page are not yet taken.
    left: usize,
    next: u64,
}

impl<'a> Bytes<'a> {
    fn new(memory: &'a VirtualMemory<'a>, gva: u64) -> Self {
        Self {
            memory,
            page: [0; 4096],
            left: 0,
            next: gva,
        }
    }

    fn next(&mut self) -> Result<u8, KallsymsError> {
        if self.left == 0 {
            let offset = usize::try_from(self.next % 4096).unwrap_or_default();
            self.memory.read(self.next, &mut self.page[offset..])?;
            self.left = 4096 - offset;
            self.next = self.next.wrapping_add(self.left as u64);
        }
        let byte = self.page[4096 - self.left];
        self.left -= 1;
        Ok(byte)
    }
}
