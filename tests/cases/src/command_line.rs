// SPDX-License-Identifier: GPL-2.0

//! The kernel's command line.

use std::fs;

/// Returns the value of the parameter `name`, which ends with its `=`. `/proc` must be mounted.
#[must_use]
pub fn parameter(name: &str) -> Option<String> {
    let parameters = fs::read_to_string("/proc/cmdline").ok()?;
    let mut parameters = parameters.split_whitespace();
    let value = parameters.find_map(|parameter| parameter.strip_prefix(name));
    value.map(str::to_owned)
}
