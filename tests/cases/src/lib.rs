// SPDX-License-Identifier: GPL-2.0

//! What the test VMs share with the harness and the demo. The cases are in the binary.

pub mod command_line;
pub mod protocol;
