// SPDX-License-Identifier: GPL-2.0

//! Raw bindings: those of the kernel crate, and what it lacks: KVM, kprobes, files, `vmap`.
//!
//! `Kbuild` generates the latter by a bindgen run of its own. Types that the kernel crate binds
//! come from there, so that they are the same types. Inline functions and macros are wrapped in
//! `bindings/helpers.c`; what wraps one C function keeps its name here. Only the owners of a kernel
//! thing use this module.

use kernel::{
    ffi,
    prelude::*, //
};

/// What bindgen made of `bindings/bindings.h`.
#[allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unknown_lints, // those of newer compilers
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]
mod generated {
    pub(crate) use kernel::bindings::*;
    use kernel::ffi;

    include!(concat!(
        env!("KVM_INSPECT_OBJTREE"),
        "/src/bindings/bindings_generated.rs"
    ));
}

pub(crate) use generated::*;

/// Offsets and sizes as gcc sees them, against those of bindgen, which parses with libclang.
mod layout {
    use super::generated as bindings; // as the assertions call it
    use core::mem::{
        offset_of,
        size_of, //
    };

    include!(concat!(
        env!("KVM_INSPECT_OBJTREE"),
        "/src/bindings/layout_generated.rs"
    ));
}

/// Returns the elements of all `pattern=`, with commas between, if given.
pub(crate) fn pattern_parameter() -> Option<&'static [u8]> {
    // SAFETY: Set before the module's init runs, and not changed after.
    list(unsafe { kvm_inspect_patterns })
}

/// Returns the elements of all `range=`, with commas between, if given.
pub(crate) fn range_parameter() -> Option<&'static [u8]> {
    // SAFETY: Set before the module's init runs, and not changed after.
    list(unsafe { kvm_inspect_ranges })
}

/// Returns the value of `access=`, empty if not given.
pub(crate) fn access_parameter() -> &'static [u8] {
    // SAFETY: Set before the module's init runs, and not changed after; never null.
    unsafe { CStr::from_char_ptr(kvm_inspect_access) }.to_bytes()
}

/// Returns the value of `late=`, empty if not given.
pub(crate) fn late_parameter() -> &'static [u8] {
    // SAFETY: Set before the module's init runs, and not changed after; never null.
    unsafe { CStr::from_char_ptr(kvm_inspect_late) }.to_bytes()
}

/// Returns the value of `engine=`, empty if not given.
pub(crate) fn engine_parameter() -> &'static [u8] {
    // SAFETY: Set before the module's init runs, and not changed after; never null.
    unsafe { CStr::from_char_ptr(kvm_inspect_engine) }.to_bytes()
}

fn list(text: *const ffi::c_char) -> Option<&'static [u8]> {
    // SAFETY: Null, or a string that lives as long as the module (`bindings/strings.c`).
    (!text.is_null()).then(|| unsafe { CStr::from_char_ptr(text) }.to_bytes())
}

/// Returns whether the module has a parameter with this name.
pub(crate) fn is_parameter(name: &[u8]) -> bool {
    // SAFETY: Any number will do; the names are strings that live as long as the module.
    let mut names = (0..).map_while(|index| unsafe {
        let name = parameter_name(index);
        (!name.is_null()).then(|| CStr::from_char_ptr(name).to_bytes())
    });
    names.any(|other| crate::arguments::is_same_name(other, name))
}
