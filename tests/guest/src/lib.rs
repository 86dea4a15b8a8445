// SPDX-License-Identifier: GPL-2.0

//! What the test VMs and the harness on the host share. All else is in the binary.

pub mod protocol;
