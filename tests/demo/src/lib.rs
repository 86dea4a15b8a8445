// SPDX-License-Identifier: GPL-2.0

//! Parts of the demo that run inside its VM.

pub mod qemu;
pub mod report;
