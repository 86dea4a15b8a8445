// SPDX-License-Identifier: GPL-2.0

//! The search for patterns in memory.
//!
//! - `pattern` reads what the user asks for;
//! - `window` picks the part of a pattern that is worth looking for first;
//! - `filter` finds the few places where such a part stands, at the cost of a few instructions
//!   a byte whatever the number of patterns;
//! - `search` checks those places against the whole pattern.
//!
//! All of it uses `core` alone, allocates nothing and has no state that outlives a call: the same
//! source is part of the module and of an ordinary crate. In the kernel a panic takes the machine
//! down, so nothing here may panic, whatever the patterns and the memory hold.

#![forbid(unsafe_code)]

mod filter;
mod pattern;
mod search;
mod window;

pub use self::{
    filter::Tables,
    pattern::{
        Pattern,
        PatternError,
        MAX_LEN, //
    },
    search::{
        Match,
        Memory,
        Searcher, //
    },
};
