// SPDX-License-Identifier: GPL-2.0

//! The hook: every KVM_RUN of a watched VM goes through [`hooked_vcpu_ioctl`].
//!
//! A kprobe on `kvm_vcpu_ioctl` only redirects. [`hooked_vcpu_ioctl`] then runs in the vCPU's own
//! thread in place of `kvm_vcpu_ioctl`, may sleep, and lets KVM do the call itself. While a freeze
//! is on, the thread parks there first.
//!
//! Lock order: [`SHARED`], under which probes are armed and disarmed; then [`drain::WATCHES`], then
//! `Watch::runners`. The latter two are spin locks; nothing else is taken under them but the
//! run-queue locks of a wake-up.

pub(crate) mod drain;
mod restart;
mod table;
mod watch;

use kernel::{
    prelude::*,
    sync::{
        global_lock,
        Arc, //
    }, //
};

use self::{
    drain::{
        InsideGuard,
        WATCHES, //
    },
    restart::Restart,
    watch::Runners, //
};

use crate::{
    bindings,
    error::refuse,
    kvm::{
        run,
        RunCall,
        Vm,
        VmId, //
    },
    linux::{
        ftrace::IpModify,
        kernels::EOPNOTSUPP,
        kprobe::{
            Arguments,
            Handler,
            Kprobe, //
        },
        module,
        task, //
    }, //
};

pub(crate) use self::{
    table::MAX_VMS,
    watch::{
        VcpuLocation,
        Watch,
        Whom, //
    }, //
};

/// How long a hook that goes waits for threads that are inside. One that does not react in time is
/// left to [`drain::Drain`].
const KICK_OUT_MS: u32 = 100;

global_lock! {
    // SAFETY: `Drain::new` initializes it before anything else uses it.
    /// The hook, which all who watch share.
    unsafe(uninit) static SHARED: Mutex<Shared> = Shared {
        hook: None,
        users: 0,
    };
}

/// The hook and how many use it.
struct Shared {
    /// It is there while somebody uses it.
    hook: Option<Hook>,
    users: usize,
}

/// The right to the armed hook: it stays armed until the last of these is dropped.
pub(crate) struct Armed(());

impl Armed {
    /// Arms the hook, unless it is.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody else redirects the function, ftrace is off, or the probes of before could
    /// not be taken back. `EOPNOTSUPP`, `ENODEV` and others, after a line that says so. `ENOMEM`.
    pub(crate) fn get() -> Result<Self> {
        let mut shared = SHARED.lock();
        if shared.hook.is_none() {
            if module::is_kept() {
                // The kernel has the probes of before, armed or not. Lines have said so.
                return Err(EBUSY);
            }
            shared.hook = Some(Hook::arm().map_err(explain)?);
        }
        shared.users = shared.users.saturating_add(1);
        Ok(Self(()))
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        let mut shared = SHARED.lock();
        shared.users = shared.users.saturating_sub(1);
        if shared.users == 0 {
            // Under the lock: who comes meanwhile arms it after this.
            shared.hook = None;
        }
    }
}

fn explain(error: Error) -> Error {
    if error == EBUSY {
        refuse!(
            error,
            "somebody else redirects kvm_vcpu_ioctl, a live patch perhaps, or ftrace is off; \
             remove that, or write 1 to /proc/sys/kernel/ftrace_enabled"
        )
    } else if error == EOPNOTSUPP {
        refuse!(
            error,
            "kvm_vcpu_ioctl cannot be redirected; use a kernel with CONFIG_KPROBES_ON_FTRACE"
        )
    } else if error == ENODEV {
        refuse!(
            error,
            "kprobes are turned off; write 1 to /sys/kernel/debug/kprobes/enabled"
        )
    } else if error == ENOMEM {
        error
    } else {
        refuse!(
            error,
            "the probe on kvm_vcpu_ioctl cannot be set ({error:?}); see what the kernel log says \
             about kprobes or ftrace"
        )
    }
}

/// The armed hook.
///
/// The drop disarms it and kicks out the threads that are inside: an idle module is in nobody's
/// way.
struct Hook {
    // All are there until `drop` takes them, one by one.
    probe: Option<Kprobe<Redirect>>,
    ip_modify: Option<IpModify>,
    restart: Option<Restart>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.probe = None;
        drain::kick_out(KICK_OUT_MS, Whom::Runners);
        // The right goes when nobody uses it any more.
        self.ip_modify = None;
        self.restart = None;
        drain::begin_proof();
    }
}

impl Hook {
    /// Arms the hook. It redirects no call until a VM is watched.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody else redirects the function, or ftrace is off. `EOPNOTSUPP`: ftrace
    /// cannot. Others as [`Kprobe::register`] and [`Kprobe::enable`].
    fn arm() -> Result<Self> {
        let probe = Kprobe::<Redirect>::register(c"kvm_vcpu_ioctl")?;
        let address = probe.ftrace_address().ok_or(EOPNOTSUPP)?;
        let ip_modify = IpModify::claim(address)?;
        let restart = Restart::arm()?;
        probe.enable()?;
        Ok(Self {
            probe: Some(probe),
            ip_modify: Some(ip_modify),
            restart: Some(restart),
        })
    }
}

/// A VM that is watched until this is dropped.
///
/// Fields are dropped in this order: a thread that finds no active watch restarts its call, and
/// must then not be redirected again.
pub(crate) struct Watched {
    _entry: table::Entry,
    watch: ActiveWatch,
    _armed: Armed,
}

impl Watched {
    /// Redirects each KVM_RUN of `vm` from now on, until the result is dropped.
    ///
    /// Calls that are already under way restart when they are kicked ([`Restart`]). The same VM may
    /// be watched by several: they take turns to freeze it ([`Watch::take_turn`]).
    ///
    /// # Errors
    ///
    /// As [`Armed::get`]. `ENOMEM`. `E2BIG`: [`MAX_VMS`] are watched already.
    pub(crate) fn begin(vm: &Vm) -> Result<Self> {
        let armed = Armed::get()?;
        let runners = Runners::with_capacity(vm.vcpus().count())?;
        let fresh = Arc::pin_init(Watch::new(vm, runners), GFP_KERNEL)?;
        drain::remove_deserted();
        let mut watches = WATCHES.lock();
        let known = watches.iter().find(|watch| watch.is_of(vm)).cloned();
        let watch = match known {
            Some(watch) => watch,
            None => {
                watches.push(fresh.clone(), GFP_ATOMIC)?;
                fresh
            }
        };
        watch.add_watcher();
        let watch = ActiveWatch(watch);
        let entry = table::Entry::claim(vm);
        drop(watches);
        let entry = entry.map_err(|error| {
            refuse!(
                error,
                "{MAX_VMS} inspections are under way, or have just ended; try again in a moment"
            )
        })?;
        Ok(Self {
            _entry: entry,
            watch,
            _armed: armed,
        })
    }
}

impl core::ops::Deref for Watched {
    type Target = Watch;

    fn deref(&self) -> &Watch {
        &self.watch.0
    }
}

/// A watch that threads find, until all who watch have dropped theirs.
struct ActiveWatch(Arc<Watch>);

impl ActiveWatch {
    /// Returns the watch of a VM of the current process.
    ///
    /// Its VM may be watched no more, also while the caller looks at it: see [`Watch::run`].
    fn find(vm: VmId) -> Option<Arc<Watch>> {
        let vmm = task::current_mm().addr();
        let watches = WATCHES.lock();
        let found = watches.iter().find(|watch| watch.is_of_vmm(vm, vmm));
        found.cloned()
    }
}

impl Drop for ActiveWatch {
    fn drop(&mut self) {
        self.0.remove_watcher();
    }
}

/// The decision about one call of `kvm_vcpu_ioctl`.
struct Redirect;

impl Handler for Redirect {
    fn handle(arguments: Arguments<'_>) -> Option<usize> {
        // SAFETY: The only probe with this handler is on `kvm_vcpu_ioctl`.
        let vm = unsafe { run::vm_about_to_run(&arguments) }?;
        let vmm = task::current_mm().addr();
        table::has_vm(vm, vmm).then_some(hooked_vcpu_ioctl as *const () as usize)
    }
}

/// Runs in place of `kvm_vcpu_ioctl`, with its arguments and its return value.
///
/// # Safety
///
/// Only the probe may send a call here, by way of [`Redirect`].
unsafe extern "C" fn hooked_vcpu_ioctl(
    file: *mut bindings::file,
    _ioctl: c_uint,
    _argument: c_ulong,
) -> c_long {
    // Dropped last. Its drop also keeps the compiler from turning a call of KVM below into a jump,
    // after which the thread would not come back here to be counted out.
    let _inside = InsideGuard::new();
    // SAFETY: `Redirect` has recognized the call as KVM_RUN by this task.
    let call = unsafe { RunCall::from_raw(file) };
    table::set_starting_over(false);
    let result = match ActiveWatch::find(call.vcpu().vm_id()) {
        Some(watch) => watch.run(&call),
        // No longer watched: the next try goes straight to KVM.
        None => call.start_over(),
    };
    if result == task::return_value(ERESTARTNOHAND) {
        table::set_starting_over(true);
    }
    result
}
