// SPDX-License-Identifier: GPL-2.0

//! The CPUs of this machine.
//!
//! C header: [`include/linux/cpumask.h`](srctree/include/linux/cpumask.h)

use crate::bindings;

/// Returns how many CPUs are online now.
pub(crate) fn num_online_cpus() -> usize {
    // SAFETY: No preconditions.
    usize::try_from(unsafe { bindings::num_online_cpus() }).unwrap_or(1)
}
