// SPDX-License-Identifier: GPL-2.0

//! `/dev/kvm_inspect`: inspections for programs (`docs/device.md`).
//!
//! One open file is a [`session`] on one VM. Its calls are checked here, in the thread that makes
//! them, and done by the [`worker`] of the session.

mod arguments;
mod attach;
mod context;
mod convert;
mod copying;
mod found;
mod layout;
mod lists;
mod read;
mod search;
mod session;
mod worker;

use kernel::{
    fs::{
        File,
        Kiocb, //
    },
    iov::IovIterDest,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::Arc, //
};

use self::{
    arguments::Argument,
    session::{
        Hold,
        Session, //
    }, //
};
use crate::{
    error::refuse,
    linux::{
        lockdown,
        log::Lines,
        miscdevice, //
    },
    parameters::MAX_MS,
    request::Late,
    search::random_key,
    target,
    uapi, //
};

/// The longest lease, in milliseconds.
const MAX_LEASE_MS: u32 = 60_000;

/// What a time is if it is not given, in milliseconds.
const DEFAULT_MS: u32 = 1000;

/// Registers the device. The drop takes it away.
///
/// # Errors
///
/// Those of `misc_register`, after a line that says so; `ENOMEM`.
pub(crate) fn register() -> Result<Pin<KBox<MiscDeviceRegistration<Device>>>> {
    let device = miscdevice::register(c"kvm_inspect");
    KBox::pin_init(device, GFP_KERNEL).map_err(|error| {
        if error == ENOMEM {
            error
        } else {
            refuse!(
                error,
                "/dev/kvm_inspect cannot be made; unload what has a device of that name"
            )
        }
    })
}

/// What the kernel calls.
pub(crate) struct Device(Pin<KBox<Session>>);

#[vtable]
impl MiscDevice for Device {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _device: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        if !lockdown::has_rawio() {
            return Err(EPERM);
        }
        target::check_lockdown()?;
        let key = Arc::new(random_key()?, GFP_KERNEL)?;
        let lines = Arc::pin_init(Lines::new(), GFP_KERNEL)?;
        Ok(KBox::new(Self(Session::new(key, lines)?), GFP_KERNEL)?)
    }

    fn ioctl(device: &Self, _file: &File, number: u32, argument: usize) -> Result<isize> {
        let session = &*device.0;
        let argument = Argument::new(argument, number);
        let call = number & !uapi::SIZE_MASK;
        session.explaining(|| {
            // What shows nothing of the guest is always possible, above all to let it go on.
            if !matches!(call, EXPLAIN | PROGRESS | RELEASE) {
                target::check_lockdown()?;
            }
            match call {
                EXPLAIN => explain(session, &argument),
                PROGRESS => progress(session, &argument),
                ATTACH => attach::attach(session, &argument),
                SLOTS => lists::slots(session, &argument),
                VCPUS => lists::vcpus(session, &argument),
                PRESENT_PAGES => lists::present(session, &argument),
                COPY => copying::copy(session, &argument),
                SEARCH => search::search(session, &argument),
                HITS => search::hits(session, &argument),
                UNCOVERED => search::uncovered(session, &argument),
                HOLD => hold(session, &argument),
                RELEASE => release(session, &argument),
                _ => Err(ENOTTY),
            }
        })?;
        Ok(0)
    }

    fn read_iter(kiocb: Kiocb<'_, Self::Ptr>, into: &mut IovIterDest<'_>) -> Result<usize> {
        read::read(&kiocb.file().0, kiocb, into)
    }
}

const fn without_size(number: u32) -> u32 {
    number & !uapi::SIZE_MASK
}

const ATTACH: u32 = without_size(uapi::ATTACH);
const EXPLAIN: u32 = without_size(uapi::EXPLAIN);
const PROGRESS: u32 = without_size(uapi::PROGRESS);
const SLOTS: u32 = without_size(uapi::SLOTS);
const VCPUS: u32 = without_size(uapi::VCPUS);
const PRESENT_PAGES: u32 = without_size(uapi::PRESENT_PAGES);
const COPY: u32 = without_size(uapi::COPY);
const SEARCH: u32 = without_size(uapi::SEARCH);
const HITS: u32 = without_size(uapi::HITS);
const UNCOVERED: u32 = without_size(uapi::UNCOVERED);
const HOLD: u32 = without_size(uapi::HOLD);
const RELEASE: u32 = without_size(uapi::RELEASE);

/// `KVM_INSPECT_EXPLAIN`
fn explain(session: &Session, argument: &Argument) -> Result {
    let mut explain = argument.read::<uapi::Explain>()?;
    let mut text = KBox::new([0; uapi::MAX_EXPLANATION], GFP_KERNEL)?;
    let length = session.shared().lines.copy(&mut text);
    explain.length = u32::try_from(length)?;
    let shown = length.min(usize::try_from(explain.room)?);
    arguments::write_bytes(explain.text, text.get(..shown).unwrap_or_default())?;
    argument.write(&explain)
}

/// `KVM_INSPECT_PROGRESS`
fn progress(session: &Session, argument: &Argument) -> Result {
    argument.read::<uapi::Progress>()?;
    let (does, done, all, pauses) = session.shared().progress.figures();
    argument.write(&uapi::Progress {
        done,
        all,
        does,
        pauses,
    })
}

/// `KVM_INSPECT_HOLD`
fn hold(session: &Session, argument: &Argument) -> Result {
    let mut hold = argument.read::<uapi::Hold>()?;
    check_flags(hold.flags, uapi::REPORT_LATE, hold.reserved)?;
    if !(1..=MAX_LEASE_MS).contains(&hold.lease_ms) {
        return Err(refuse!(
            EINVAL,
            "lease_ms={} is out of range; give 1 to {MAX_LEASE_MS}",
            hold.lease_ms
        ));
    }
    hold.freeze_ns = session.hold(Hold {
        lease_ms: hold.lease_ms,
        freeze_timeout_ms: freeze_timeout(hold.freeze_timeout_ms)?,
        late: late(hold.flags),
        freeze_ns: 0,
    })?;
    argument.write(&hold)
}

/// `KVM_INSPECT_RELEASE`
fn release(session: &Session, argument: &Argument) -> Result {
    let mut release = argument.read::<uapi::Release>()?;
    check_flags(0, 0, release.reserved)?;
    let released = session.release()?;
    release.pause_ns = released.pause_ns;
    release.is_expired = released.is_expired.into();
    argument.write(&release)
}

/// Checks that no flags are given but those that are known, and that what is reserved is 0.
///
/// # Errors
///
/// `EINVAL`, after a line that says so.
fn check_flags(flags: u32, known: u32, reserved: u32) -> Result {
    if flags & !known != 0 {
        return Err(refuse!(
            EINVAL,
            "flags {:#x} are not known here; leave them out",
            flags & !known
        ));
    }
    if reserved != 0 {
        return Err(refuse!(EINVAL, "a reserved member is not 0; set it to 0"));
    }
    Ok(())
}

/// Returns the address space that is asked for.
fn address_space(asked: u32) -> Result<c_int> {
    match asked {
        0 => Ok(0),
        1 => Ok(1),
        _ => Err(refuse!(
            EINVAL,
            "address_space={asked} is out of range; give 0, or 1 for system management mode"
        )),
    }
}

fn late(flags: u32) -> Late {
    if flags & uapi::REPORT_LATE == 0 {
        Late::Refuse
    } else {
        Late::Report
    }
}

/// Returns how long to wait for all vCPUs to stop, in milliseconds.
fn freeze_timeout(milliseconds: u32) -> Result<u32> {
    match milliseconds {
        0 => Ok(DEFAULT_MS),
        _ if i64::from(milliseconds) <= MAX_MS => Ok(milliseconds),
        _ => Err(refuse!(
            EINVAL,
            "freeze_timeout_ms={milliseconds} is out of range; give 1 to {MAX_MS}, or 0 for a \
             second"
        )),
    }
}

/// Returns the longest pause, in milliseconds; [`None`]: as long as it takes.
fn max_pause(milliseconds: u32) -> Result<Option<u32>> {
    match milliseconds {
        0 => Ok(Some(DEFAULT_MS)),
        uapi::NO_LIMIT => Ok(None),
        _ if i64::from(milliseconds) <= MAX_MS => Ok(Some(milliseconds)),
        _ => Err(refuse!(
            EINVAL,
            "max_pause_ms={milliseconds} is out of range; give 1 to {MAX_MS}, 0 for a second, or \
             KVM_INSPECT_NO_LIMIT"
        )),
    }
}
