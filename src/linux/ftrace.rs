// SPDX-License-Identifier: GPL-2.0

//! The right to redirect a kernel function, which one user at a time has.
//!
//! C header: [`include/linux/ftrace.h`](srctree/include/linux/ftrace.h)

use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

use crate::bindings;

/// The right to redirect one kernel function, held while the value lives.
///
/// Live patches need it, too: who has it keeps the others out.
///
/// # Invariants
///
/// `ops` is registered from the end of [`IpModify::claim`] until the value is dropped.
#[pin_data(PinnedDrop)]
pub(crate) struct IpModify {
    #[pin]
    ops: Opaque<bindings::ftrace_ops>,
}

// SAFETY: It may be unregistered from any task.
unsafe impl Send for IpModify {}

// SAFETY: A shared reference allows nothing.
unsafe impl Sync for IpModify {}

impl IpModify {
    /// Claims the function that calls ftrace at `address`.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody else redirects this function. Others as `register_ftrace_function` has
    /// them.
    pub(crate) fn claim(address: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ops <- Opaque::try_ffi_init(move |slot: *mut bindings::ftrace_ops| {
                let ops = bindings::ftrace_ops {
                    func: Some(Self::nothing),
                    flags: bindings::KVM_INSPECT_FTRACE_IPMODIFY as usize,
                    ..Default::default()
                };
                // SAFETY: `slot` is valid for writes, and pinned from here on.
                unsafe { slot.write(ops) };
                // SAFETY: `slot` is initialized.
                let filter = unsafe { bindings::ftrace_set_filter_ip(slot, address, 0, 0) };
                let result = to_result(filter)
                    // SAFETY: `slot` stays in place until `drop` unregisters it.
                    .and_then(|()| to_result(unsafe { bindings::register_ftrace_function(slot) }));
                if result.is_err() {
                    // SAFETY: It is not registered; whatever filter it has is freed.
                    unsafe { bindings::ftrace_free_filter(slot) };
                }
                result
            }),
        })
    }

    /// Does nothing: a probe redirects the calls.
    ///
    /// # Safety
    ///
    /// None.
    unsafe extern "C" fn nothing(
        _ip: usize,
        _parent_ip: usize,
        _ops: *mut bindings::ftrace_ops,
        _registers: *mut bindings::ftrace_regs,
    ) {
    }
}

#[pinned_drop]
impl PinnedDrop for IpModify {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant. This waits until nobody is in `nothing` any more. It fails
        // only if ftrace has met a bug in the kernel and turned itself off for good; no user can do
        // anything about that.
        unsafe { bindings::unregister_ftrace_function(self.ops.get()) };
        // SAFETY: The filter is not in use any more.
        unsafe { bindings::ftrace_free_filter(self.ops.get()) };
    }
}
