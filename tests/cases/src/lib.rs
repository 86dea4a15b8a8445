// SPDX-License-Identifier: GPL-2.0

//! What others have in common with the test VMs: the harness on the host, and the demo. All else is in
//! the binary.

pub mod command_line;
pub mod protocol;
