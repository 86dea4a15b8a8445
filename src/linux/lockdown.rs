// SPDX-License-Identifier: GPL-2.0

//! Kernel lockdown: whether the kernel's own memory may be shown to root.
//!
//! C header: [`include/linux/security.h`](srctree/include/linux/security.h)

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::bindings;

/// Whether guests may be read: not under lockdown in its mode `confidentiality`, as with all that
/// would tell root what is in memory.
///
/// # Errors
///
/// `EPERM`: they may not.
pub(crate) fn may_read_memory() -> Result {
    // SAFETY: May be called from any task.
    to_result(unsafe { bindings::may_read_memory() })
}
