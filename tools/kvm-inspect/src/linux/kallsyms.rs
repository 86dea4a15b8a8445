// SPDX-License-Identifier: GPL-2.0

//! The symbols of a kernel, as it holds them itself (`kernel/kallsyms.c`, `scripts/kallsyms.c`).
//!
//! A name is a list of tokens of a table with 256 strings; the first character is the symbol's
//! type. An address is a 32-bit number, which has had three meanings. VMCOREINFO tells where all
//! that is since Linux 6.0.

mod addresses;
mod names;

use std::{
    error::Error,
    fmt::{self, Display},
};

use self::names::Names;
use super::Kernel;
use crate::paging::Fault;

/// A kernel with everything in it has about a million.
const MAX_SYMBOLS: u32 = 1 << 21;

/// The symbols of a kernel, without those of modules.
#[derive(Clone, Debug)]
pub struct Kallsyms {
    names: Names,
    /// In the order of the names.
    addresses: Vec<u64>,
    /// Which symbols there are, ordered by their names, then as the kernel has them.
    by_name: Vec<u32>,
    /// The same, ordered by their addresses, then as the kernel has them.
    by_address: Vec<u32>,
}

/// A symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address.
    pub address: u64,
    /// Its type, as `nm` prints it.
    pub kind: char,
}

impl Kallsyms {
    /// Reads all symbols.
    ///
    /// # Errors
    ///
    /// See [`KallsymsError`].
    pub fn read(kernel: &Kernel<'_>) -> Result<Self, KallsymsError> {
        let (info, memory) = (kernel.info(), kernel.memory());
        let symbol = |name| info.symbol(name);
        let count = symbol("kallsyms_num_syms").ok_or(KallsymsError::Missing)?;
        let count = memory.read_u32(count)?;
        if count > MAX_SYMBOLS {
            return Err(KallsymsError::Invalid("there are too many symbols"));
        }
        let names = Names::read(memory, info, count)?;
        let text_start = names
            .find("_stext")
            .ok_or(KallsymsError::Invalid("_stext is missing"))?;
        let addresses = addresses::read(memory, info, count, text_start)?;
        let order = |compare: &dyn Fn(usize, usize) -> std::cmp::Ordering| {
            let mut order: Vec<u32> = (0..count).collect();
            order.sort_by(|a, b| compare(*a as usize, *b as usize));
            order
        };
        let by_name = order(&|a, b| names.name(a).cmp(&names.name(b)));
        let by_address = order(&|a, b| addresses[a].cmp(&addresses[b]));
        Ok(Self {
            names,
            addresses,
            by_name,
            by_address,
        })
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Returns all symbols, in the kernel's order, which is by addresses.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        (0..self.len()).filter_map(|index| self.symbol(index))
    }

    /// Returns the symbols with a name, in the kernel's order. Only static ones can be several.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Symbol<'a>> {
        let first = self.by_name.partition_point(|index| {
            let other = self.names.name(*index as usize);
            other.is_some_and(|other| other < name)
        });
        let all = self.by_name.iter().skip(first);
        let all = all.filter_map(|index| self.symbol(*index as usize));
        all.take_while(move |symbol| symbol.name == name)
    }

    /// Returns the address of the symbol with a name; of the first one if there are several, as the
    /// kernel does.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.named(name).next().map(|symbol| symbol.address)
    }

    /// Returns the symbol at or before an address, and how many bytes there are between them: of
    /// several the first one. After the last symbol there is none.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<(Symbol<'_>, u64)> {
        let of = |index: &u32| {
            self.addresses
                .get(*index as usize)
                .copied()
                .unwrap_or_default()
        };
        let after = self
            .by_address
            .partition_point(|index| of(index) <= address);
        let last = self.by_address.get(after.checked_sub(1)?)?;
        if after == self.by_address.len() && of(last) != address {
            return None;
        }
        let first = self
            .by_address
            .partition_point(|index| of(index) < of(last));
        let symbol = self.symbol(*self.by_address.get(first)? as usize)?;
        Some((symbol, address - symbol.address))
    }

    /// Returns how many bytes there are from a symbol's address to the next higher one.
    #[must_use]
    pub fn room(&self, address: u64) -> Option<u64> {
        let of = |index: &u32| {
            self.addresses
                .get(*index as usize)
                .copied()
                .unwrap_or_default()
        };
        let after = self
            .by_address
            .partition_point(|index| of(index) <= address);
        let next = self.by_address.get(after)?;
        Some(of(next) - address)
    }

    fn symbol(&self, index: usize) -> Option<Symbol<'_>> {
        let (kind, name) = self.names.get(index)?;
        let address = *self.addresses.get(index)?;
        Some(Symbol {
            name,
            address,
            kind,
        })
    }
}

/// Why the symbols cannot be read.
#[derive(Debug)]
pub enum KallsymsError {
    /// VMCOREINFO does not say where they are: Linux is older than 6.0, or was built without them.
    Missing,
    /// They are not in memory.
    Fault(Fault),
    /// They are not what the kernel would make, for this reason.
    Invalid(&'static str),
}

impl From<Fault> for KallsymsError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Display for KallsymsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("VMCOREINFO does not say where kallsyms are"),
            Self::Fault(fault) => write!(f, "kallsyms: {fault}"),
            Self::Invalid(why) => write!(f, "kallsyms are not valid: {why}"),
        }
    }
}

impl Error for KallsymsError {}
