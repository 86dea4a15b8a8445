// SPDX-License-Identifier: GPL-2.0

//! The search for patterns in memory.
//!
//! - `pattern` reads what the user asks for;
//! - `window` picks the few bytes of a pattern that are worth looking for first;
//! - `tail` tells by its end where a pattern does not stand;
//! - `tables` prepares a set of patterns;
//! - `samples` finds the few places where long patterns may stand, by looking at some places only;
//! - `filter` finds the few places where such bytes may stand, in vector code where the CPU has it;
//! - `search` looks closely at those places;
//! - `digest` tells whether memory has changed;
//! - `memory` is what all of them read, and `level` what a CPU can do.
//!
//! All of it uses `core` alone, allocates nothing and has no state that outlives a call but what the
//! caller provides: the same source is part of the module and of an ordinary crate. In the kernel a
//! panic takes the machine down, so nothing here may panic, whatever the patterns and the memory hold.

pub mod digest;
mod exact;
mod filter;
mod level;
mod memory;
mod pattern;
mod samples;
mod search;
mod tables;
mod tail;
mod window;

pub use self::{
    level::Level,
    memory::{
        Host,
        Memory,
        Piece, //
    },
    pattern::{
        Pattern,
        PatternError,
        MAX_LEN, //
    },
    search::{
        Match,
        Scratch,
        Searcher, //
    },
    tables::{
        Tables,
        MAX_PATTERNS, //
    },
};
