// SPDX-License-Identifier: GPL-2.0

//! Kernel lockdown: whether root may see the kernel's memory.
//!
//! C header: [`include/linux/security.h`](srctree/include/linux/security.h)

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::bindings;

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
