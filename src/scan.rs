// SPDX-License-Identifier: GPL-2.0

//! Scanning memory for patterns.
//!
//! - `pattern` reads what the user asks for;
//! - `odds` tells how often something is expected in memory;
//! - `tail` rules out places by the end of a pattern;
//! - `index` leads from the bytes at a place to the patterns that may match there;
//! - `filter` finds the few places with such bytes, in vector code where the CPU has it;
//! - `way` puts both together for some patterns, `plan` finds the best way, and `tables` prepares
//!   the ways for a set;
//! - `scanner` finds the matches;
//! - `digest` tells whether memory has changed;
//! - `memory` is what all of them read, and `engine` what a machine can do.
//!
//! All of it uses `core` alone, allocates nothing and keeps no state but what the caller provides:
//! the same source is part of the module and of an ordinary crate. In the kernel a panic takes the
//! machine down, so nothing here may panic, whatever the patterns and the memory hold.

pub mod digest;
mod engine;
mod filter;
mod index;
mod memory;
mod odds;
mod pattern;
mod plan;
mod scanner;
mod tables;
mod tail;
mod way;

pub use self::{
    engine::{
        Engine,
        EngineKind, //
    },
    memory::{
        Host,
        Memory,
        Piece, //
    },
    pattern::{
        Pattern,
        PatternError,
        MAX_LEN,
        MAX_PATTERNS, //
    },
    scanner::{
        Match,
        Scanner,
        Scratch,
        Work, //
    },
    tables::Tables,
};
