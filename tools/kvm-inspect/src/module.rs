// SPDX-License-Identifier: GPL-2.0

//! Loads and unloads the module.

use std::{ffi::CString, fs::File};

use rustix::{
    io::Errno,
    system::{delete_module, finit_module},
};

/// Loads the module from its file, with parameters as `insmod` takes them. Returns when its first
/// report is complete.
///
/// # Errors
///
/// The module refuses (`docs/report.md` lists why), or the kernel does not take it.
pub fn load(module: &File, parameters: &str) -> Result<(), Errno> {
    // The kernel would take a NUL for the end.
    let parameters = CString::new(parameters).map_err(|_| Errno::INVAL)?;
    finit_module(module, &parameters, 0)
}

/// Unloads the module, which ends its inspections.
///
/// # Errors
///
/// It is not loaded, or this process may not unload it.
pub fn unload() -> Result<(), Errno> {
    delete_module(c"kvm_inspect", 0)
}
