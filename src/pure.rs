// SPDX-License-Identifier: GPL-2.0

//! The parts of `kvm_inspect` that need no kernel, as an ordinary crate.
//!
//! The module compiles the same files. Here they can be tested on any machine, with tools that
//! do not exist in the kernel.

#![no_std]
// Those that derives of zerocopy generate.
#![allow(non_ascii_idents)]

extern crate std;

use std::{
    alloc::{
        alloc_zeroed,
        handle_alloc_error,
        Layout, //
    },
    boxed::Box, //
};

use crate::scan::{
    Engine,
    EngineKind,
    Tables, //
};

pub mod arguments;
pub mod range;
pub mod scan;
pub mod uapi;
pub mod x86;

/// Returns the engines that this machine has, from the slowest to the fastest. Miri knows no
/// assembly.
pub fn engines() -> impl Iterator<Item = Engine> {
    let has_avx2 = !cfg!(miri)
        && std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("bmi1")
        && std::is_x86_feature_detected!("popcnt");
    let has_avx512 = has_avx2
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512vl")
        && std::is_x86_feature_detected!("avx512vbmi")
        && std::is_x86_feature_detected!("gfni");
    let kinds = EngineKind::ALL.into_iter().filter(move |kind| match kind {
        EngineKind::Portable => true,
        EngineKind::Avx2 => has_avx2,
        EngineKind::Avx512 => has_avx512,
    });
    // SAFETY: The machine was asked.
    kinds.map(|kind| unsafe { Engine::new_unchecked(kind) })
}

/// Returns the tables of no pattern. They are too large for the stack of a thread.
#[must_use]
pub fn tables() -> Box<Tables> {
    let layout = Layout::new::<Tables>();
    // SAFETY: The layout is not empty.
    let tables = unsafe { alloc_zeroed(layout) };
    if tables.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: The memory has the layout of a box's, and nobody else's. All zeros are a valid value.
    unsafe { Box::from_raw(tables.cast()) }
}
