// SPDX-License-Identifier: GPL-2.0

//! The parts of `kvm_inspect` that need no kernel, as an ordinary crate.
//!
//! The module compiles the same files. Here they can be tested on any machine, with tools that
//! do not exist in the kernel.

#![no_std]

extern crate std;

use crate::scan::Level;

pub mod mode;
pub mod range;
pub mod scan;

/// The levels that this CPU has, from the slowest to the fastest. Miri knows no assembly.
pub fn levels() -> impl Iterator<Item = Level> {
    let has_avx2 = !cfg!(miri) && std::is_x86_feature_detected!("avx2");
    let has_avx512 = has_avx2
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512vl")
        && std::is_x86_feature_detected!("avx512vbmi");
    Level::ALL.into_iter().filter(move |level| match level {
        Level::Portable => true,
        Level::Avx2 => has_avx2,
        Level::Avx512 => has_avx512,
    })
}
