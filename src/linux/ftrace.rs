// SPDX-License-Identifier: GPL-2.0

//! The right to redirect a kernel function, which one user at a time has.
//!
//! While somebody has it, ftrace stays on: without it no probe on a function's entry is called.
//!
//! C header: [`include/linux/ftrace.h`](srctree/include/linux/ftrace.h)

use core::mem::ManuallyDrop;

use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

use crate::{
    bindings,
    linux::module, //
};

/// The right to redirect one kernel function, held while the value lives.
///
/// Live patches need it, too: who has it keeps the others out.
pub(crate) struct IpModify(ManuallyDrop<Pin<KBox<Ops>>>);

/// A registered `struct ftrace_ops`.
///
/// # Invariants
///
/// `ops` is registered from the end of [`Ops::register`] until the drop of its [`IpModify`].
#[pin_data]
struct Ops {
    #[pin]
    ops: Opaque<bindings::ftrace_ops>,
}

// SAFETY: It may be unregistered from any task.
unsafe impl Send for Ops {}

// SAFETY: A shared reference allows nothing.
unsafe impl Sync for Ops {}

impl IpModify {
    /// Claims the function that calls ftrace at `address`.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody else redirects this function, or ftrace is off. `ENOMEM`. Others as
    /// `register_ftrace_function` has them.
    pub(crate) fn claim(address: usize) -> Result<Self> {
        let ops = KBox::pin_init(Ops::register(address), GFP_KERNEL)?;
        Ok(Self(ManuallyDrop::new(ops)))
    }
}

impl Drop for IpModify {
    fn drop(&mut self) {
        let ops = self.0.ops.get();
        // SAFETY: By the type invariant. This waits until nobody is in `nothing` any more.
        let result = to_result(unsafe { bindings::unregister_ftrace_function(ops) });
        if let Err(error) = result {
            // ftrace has met a bug in the kernel, has turned itself off for good, and keeps what it
            // has on its list: that must stay where it is, with the function that it calls.
            module::keep();
            pr_err!(
                "error: ftrace is broken ({error:?}), and the module cannot be unloaded; see what \
                 the kernel log says before this, and boot the host anew\n"
            );
            return;
        }
        // SAFETY: The filter is not in use any more.
        unsafe { bindings::ftrace_free_filter(ops) };
        // SAFETY: It is not registered any more, and dropped once.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

impl Ops {
    fn register(address: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // INVARIANT: Registered here.
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
                    // SAFETY: `slot` stays in place until it is unregistered.
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
