// SPDX-License-Identifier: GPL-2.0

//! Whether this module may be unloaded.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h)

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::bindings;

static IS_KEPT: Atomic<bool> = Atomic::new(false);

/// Keeps this module loaded for good, since the kernel has something of it that cannot be taken
/// back. Returns whether it could: not while the module is being unloaded.
pub(crate) fn keep() -> bool {
    // SAFETY: No preconditions.
    let is_kept = unsafe { bindings::pin_module() };
    if is_kept {
        IS_KEPT.store(true, Relaxed);
    }
    is_kept
}

/// Returns whether [`keep`] has kept it. Then it must not fail to load, either.
pub(crate) fn is_kept() -> bool {
    IS_KEPT.load(Relaxed)
}
