// SPDX-License-Identifier: GPL-2.0

//! What the search must reach.

use kvm_inspect_pure::scan::EngineKind;

use crate::{inputs::Input, patterns::Kind};

/// Returns which share of memory's speed an engine must reach.
pub(crate) fn of_limit(
    input: Input,
    kind: Kind,
    patterns: usize,
    engine: EngineKind,
) -> Option<f64> {
    let of = |shares: [f64; 4]| match patterns {
        0..=1 => Some(shares[0]),
        2..=8 => Some(shares[1]),
        9..=64 => Some(shares[2]),
        65..=256 => Some(shares[3]),
        _ => None,
    };
    match (input, engine) {
        (Input::Real, EngineKind::Avx512) => of([0.9, 0.9, 0.7, 0.4]),
        (Input::Real, EngineKind::Avx2) => of([0.75, 0.7, 0.3, 0.2]),
        (Input::Real, EngineKind::Portable) if kind.is_short() => of([0.08; 4]),
        (Input::Real | Input::Random, _) | (_, EngineKind::Portable) => None,
        (_, EngineKind::Avx512 | EngineKind::Avx2) => Some(0.1),
    }
}

/// Returns which share of vectorscan's speed, with the same instructions, an engine must reach.
pub(crate) fn of_vectorscan(input: Input, engine: EngineKind) -> Option<f64> {
    match (input.is_ordinary(), engine) {
        // It has no vector instructions, and vectorscan always has some.
        (_, EngineKind::Portable) => None,
        (true, _) => Some(1.0),
        (false, _) => Some(0.5),
    }
}
