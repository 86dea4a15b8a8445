// SPDX-License-Identifier: GPL-2.0

//! Who may see the kernel's memory: rights, and kernel lockdown.
//!
//! C header: [`include/linux/security.h`](srctree/include/linux/security.h)

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::bindings;

/// Returns whether the current task has `CAP_SYS_RAWIO`, which `/proc/kcore` asks for, too.
pub(crate) fn has_rawio() -> bool {
    let capability = bindings::CAP_SYS_RAWIO as c_int;
    // SAFETY: Any task may call it.
    unsafe { bindings::capable(capability) }
}

/// Checks that guests may be read. The lockdown mode `confidentiality` forbids it, as it forbids
/// all that would show memory to root.
///
/// # Errors
///
/// `EPERM`: they may not.
pub(crate) fn may_read_memory() -> Result {
    // SAFETY: Any task may call it.
    to_result(unsafe { bindings::may_read_memory() })
}
