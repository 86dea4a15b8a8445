// SPDX-License-Identifier: GPL-2.0

//! Parts of the demo that run inside its VM, and of what else has a Linux guest there.

pub mod console;
pub mod figures;
pub mod host;
pub mod qemu;
pub mod values;
pub mod work;
