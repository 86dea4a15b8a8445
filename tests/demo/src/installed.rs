// SPDX-License-Identifier: GPL-2.0

//! What the scenario `installed` and its harness have in common.

/// The kernel parameter with the version that the packages should have.
pub const VERSION: &str = "version=";

/// The kernel parameter with the public key that may log in as root.
pub const KEY: &str = "key=";

/// How the line begins by which the host says that it can be logged in to. The guest's secret
/// follows.
pub const READY: &str = "The host can be logged in to. secret=";

/// The file by which the host learns that all is done.
pub const DONE: &str = "/run/done";
