// SPDX-License-Identifier: GPL-2.0

//! The arguments of the module as the process has written them that loads it.

use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

use crate::bindings;

/// The most bytes of all arguments together, with the NUL.
const MAX_ARGUMENTS: usize = bindings::KVM_INSPECT_MAX_ARGUMENTS as usize;

/// Returns the arguments, while the module is being loaded. There are none to be found if that is
/// done by a 32-bit process, or if they are too long.
///
/// The process may have changed them since the kernel read them. Only root may load modules.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn read() -> Result<Option<KVVec<u8>>> {
    // SAFETY: This only looks at the current task.
    let address = unsafe { bindings::arguments() };
    if address == 0 {
        return Ok(None);
    }
    let mut text = KVVec::from_elem(0, MAX_ARGUMENTS, GFP_KERNEL)?;
    let reader = UserSlice::new(UserPtr::from_addr(address), MAX_ARGUMENTS).reader();
    let Ok(len) = reader
        .strcpy_into_buf(&mut text)
        .map(|read| read.to_bytes().len())
    else {
        return Ok(None);
    };
    text.truncate(len);
    // One byte less may be all that there was room for.
    Ok((len < MAX_ARGUMENTS.saturating_sub(1)).then_some(text))
}
