// SPDX-License-Identifier: GPL-2.0

//! SHA-256.
//!
//! C header: [`include/crypto/sha2.h`](srctree/include/crypto/sha2.h)

use crate::bindings;

/// Returns the digest of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    // SAFETY: The slice is valid for reads of its size, and the array for writes of 32 bytes.
    unsafe { bindings::sha256(bytes.as_ptr(), bytes.len(), digest.as_mut_ptr()) };
    digest
}
