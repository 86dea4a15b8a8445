// SPDX-License-Identifier: GPL-2.0

//! Scanning memory for patterns.
//!
//! - `pattern` reads what the user asks for;
//! - `fingerprint` picks the few bytes of a pattern that are best looked for first;
//! - `tail` rules out places by the end of a pattern;
//! - `tables` prepares a set of patterns;
//! - `samples` finds the few places where long patterns may begin, by looking at some places only;
//! - `filter` finds the few places where fingerprints are, in vector code where the CPU has it;
//! - `scanner` looks closely at those places;
//! - `digest` tells whether memory has changed;
//! - `memory` is what all of them read, and `engine` what a machine can do.
//!
//! All of it uses `core` alone, allocates nothing and keeps no state but what the caller provides:
//! the same source is part of the module and of an ordinary crate. In the kernel a panic takes the
//! machine down, so nothing here may panic, whatever the patterns and the memory hold.

pub mod digest;
mod engine;
mod exact;
mod filter;
mod fingerprint;
mod memory;
mod pattern;
mod samples;
mod scanner;
mod tables;
mod tail;

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
        Scratch, //
    },
    tables::Tables,
};
