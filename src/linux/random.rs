// SPDX-License-Identifier: GPL-2.0

//! Random numbers that nobody can foresee.
//!
//! C header: [`include/linux/random.h`](srctree/include/linux/random.h)

use crate::bindings;

/// Fills `words` with random bits.
pub(crate) fn fill(words: &mut [u64]) {
    // SAFETY: The slice is valid for writes of its size, and any bits are numbers.
    unsafe { bindings::get_random_bytes(words.as_mut_ptr().cast(), size_of_val(words)) };
}
