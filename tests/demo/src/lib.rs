// SPDX-License-Identifier: GPL-2.0

//! The parts of the demo that run in its VM. Other scenarios with a Linux guest use them, too.

pub mod command;
pub mod console;
pub mod dump;
pub mod host;
pub mod installed;
pub mod pauses;
pub mod qemu;
pub mod values;
pub mod work;
