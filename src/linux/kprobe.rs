// SPDX-License-Identifier: GPL-2.0

//! A kprobe that may send the probed call elsewhere.
//!
//! C header: [`include/linux/kprobes.h`](srctree/include/linux/kprobes.h)

use core::{
    marker::PhantomData,
    mem::ManuallyDrop, //
};

use kernel::{
    error::to_result,
    prelude::*,
    str::CStr,
    time::{
        delay::fsleep,
        Delta, //
    },
    types::Opaque, //
};

use crate::{
    bindings,
    linux::module, //
};

/// What a [`Kprobe`] does each time the probed function is called.
pub(crate) trait Handler {
    /// Decides about one call.
    ///
    /// Returns the address of a function of the probed function's own signature to run in its
    /// place, or [`None`] to let the call go on. Runs with preemption off: it must not wait,
    /// sleep or allocate.
    fn handle(arguments: Arguments<'_>) -> Option<usize>;
}

/// The arguments of a probed call, as the x86-64 calling convention passes them.
pub(crate) struct Arguments<'a>(&'a bindings::pt_regs);

impl Arguments<'_> {
    /// Returns the first argument, the register `rdi`.
    pub(crate) fn first(&self) -> usize {
        self.0.di
    }

    /// Returns the second argument, the register `rsi`, all 64 bits of it.
    pub(crate) fn second(&self) -> usize {
        self.0.si
    }

    /// Returns the third argument, the register `rdx`.
    pub(crate) fn third(&self) -> usize {
        self.0.dx
    }
}

/// A kprobe at the entry of one kernel function, registered while the value lives.
///
/// It has no `post_handler`, though that would claim the right to redirect the function: if
/// somebody else has a probe there already, the kernel (7.3, `add_new_kprobe`) would then arm the
/// two with one kind of `ftrace_ops` and disarm them with another, which ends in a BUG when the
/// last of them goes. The right is claimed apart, see [`crate::linux::ftrace`].
///
/// # Invariants
///
/// `probe` is registered, and stays where it is.
pub(crate) struct Kprobe<H: Handler> {
    probe: ManuallyDrop<Pin<KBox<Registered>>>,
    _handler: PhantomData<H>,
}

/// A `struct kprobe` in its place.
#[pin_data]
struct Registered {
    #[pin]
    probe: Opaque<bindings::kprobe>,
}

// SAFETY: The C side allows a kprobe to be unregistered from any task, and nothing else of it is
// touched; no value of `H` is stored.
unsafe impl<H: Handler> Send for Kprobe<H> {}

// SAFETY: A shared reference allows to enable the probe, which has locks of its own.
unsafe impl<H: Handler> Sync for Kprobe<H> {}

impl<H: Handler> Kprobe<H> {
    /// Registers a probe at the entry of the kernel function `symbol`, which does nothing yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. As `register_kprobe` returns them.
    pub(crate) fn register(symbol: &'static CStr) -> Result<Self> {
        let register = move |slot: *mut bindings::kprobe| {
            let probe = bindings::kprobe {
                symbol_name: symbol.as_char_ptr(),
                pre_handler: Some(Self::before),
                flags: bindings::KPROBE_FLAG_DISABLED,
                ..Default::default()
            };
            // SAFETY: `slot` is valid for writes, and pinned from here on.
            unsafe { slot.write(probe) };
            // SAFETY: `slot` is initialized, and stays in place until `drop` unregisters it.
            to_result(unsafe { bindings::register_kprobe(slot) })
        };
        let probe = try_pin_init!(Registered {
            probe <- Opaque::try_ffi_init(register),
        });
        // INVARIANT: Registered just now, in a box.
        Ok(Self {
            probe: ManuallyDrop::new(KBox::pin_init(probe, GFP_KERNEL)?),
            _handler: PhantomData,
        })
    }

    fn as_raw(&self) -> *mut bindings::kprobe {
        self.probe.probe.get()
    }

    /// Returns the address of the probe, if ftrace calls it there.
    ///
    /// If it does not (a breakpoint is used, or a jump, which would ignore that the handler
    /// redirects) this is [`None`].
    pub(crate) fn ftrace_address(&self) -> Option<usize> {
        // SAFETY: By the type invariant; both fields are set by then.
        let (flags, address) = unsafe {
            let probe = self.as_raw();
            (
                (&raw const (*probe).flags).read_volatile(),
                (*probe).addr.addr(),
            )
        };
        (flags & bindings::KPROBE_FLAG_FTRACE != 0).then_some(address)
    }

    /// Enables the probe.
    ///
    /// # Errors
    ///
    /// `ENODEV`: all probes are turned off. Others as `enable_kprobe` returns them.
    /// (`register_kprobe` would drop them.)
    pub(crate) fn enable(&self) -> Result {
        // SAFETY: By the type invariant.
        to_result(unsafe { bindings::enable_kprobe(self.as_raw()) })?;
        // SAFETY: By the type invariant.
        let flags = unsafe { (&raw const (*self.as_raw()).flags).read_volatile() };
        if flags & bindings::KPROBE_FLAG_DISABLED != 0 {
            return Err(ENODEV);
        }
        Ok(())
    }

    /// The `pre_handler`. It returns 1 if it has changed the instruction pointer.
    ///
    /// # Safety
    ///
    /// Only for the probe core, with the registers of a call of the probed function.
    unsafe extern "C" fn before(
        _probe: *mut bindings::kprobe,
        registers: *mut bindings::pt_regs,
    ) -> c_int {
        // SAFETY: The probe core passes the registers of the probed call, which nobody else
        // touches while the handler runs.
        let registers = unsafe { &mut *registers };
        match H::handle(Arguments(registers)) {
            Some(address) => {
                registers.ip = address;
                1
            }
            None => 0,
        }
    }
}

impl<H: Handler> Drop for Kprobe<H> {
    fn drop(&mut self) {
        // The kernel (7.3) needs memory to disarm a probe. Without any, `unregister_kprobe` would
        // silently leave it armed; `disable_kprobe` returns an error. Each try counts ftrace's
        // probes down, those of others, too (`__disarm_kprobe_ftrace`). So there is but one, after
        // which the probe stays; it finds no VM to redirect.
        // SAFETY: By the type invariant the probe is registered.
        while unsafe { bindings::disable_kprobe(self.as_raw()) } == ENOMEM.to_errno() {
            if module::keep() {
                pr_err!(
                    "error: there is no memory to remove a probe, so the module cannot be \
                     unloaded; boot the host anew when you can\n"
                );
                return;
            }
            // The code is about to go.
            fsleep(Delta::from_millis(10));
        }
        // SAFETY: By the type invariant the probe is registered. This waits until no handler
        // runs any more (`synchronize_rcu`); it does not wait for redirected calls.
        unsafe { bindings::unregister_kprobe(self.as_raw()) };
        // SAFETY: It is not registered any more, and dropped once.
        unsafe { ManuallyDrop::drop(&mut self.probe) };
    }
}
