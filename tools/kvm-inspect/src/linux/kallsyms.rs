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
        Ok(Self { names, addresses })
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
    ///
    /// All names are looked at: few are ever asked for, and an order of all takes longer.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Symbol<'a>> {
        self.iter().filter(move |symbol| symbol.name == name)
    }

    /// Returns the address of the symbol with a name; of the first one if there are several, as the
    /// kernel does.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.named(name).next().map(|symbol| symbol.address)
    }

    /// Returns how many bytes there are from a symbol's address to the next higher one.
    #[must_use]
    pub fn room(&self, address: u64) -> Option<u64> {
        let above = self.addresses.iter().filter(|other| **other > address);
        Some(above.min()? - address)
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
