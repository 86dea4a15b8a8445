// SPDX-License-Identifier: GPL-2.0

//! A misc device whose open files keep this module loaded.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h)

use kernel::{
    error::to_result,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*, //
};
use pin_init::pin_init_from_closure;

use crate::bindings;

/// Registers the misc device with this name.
///
/// As `MiscDeviceRegistration::register`, which in 7.2 forgets to name the owner of the file
/// operations: the module could be unloaded while files are open, and their next call would run
/// where it was. Call this while the module is being loaded.
///
/// # Errors
///
/// Those of `misc_register`. `EBUSY`: there is room for one device, and it is taken.
pub(crate) fn register<T: MiscDevice>(
    name: &'static CStr,
) -> impl PinInit<MiscDeviceRegistration<T>, Error> {
    const {
        assert!(size_of::<MiscDeviceRegistration<T>>() == size_of::<bindings::miscdevice>());
    }
    let init = move |slot: *mut MiscDeviceRegistration<T>| {
        let slot = slot.cast::<bindings::miscdevice>();
        let mut device = MiscDeviceOptions { name }.into_raw::<T>();
        // SAFETY: They are valid.
        device.fops = unsafe { bindings::own_file_operations(device.fops) };
        if device.fops.is_null() {
            return Err(EBUSY);
        }
        // SAFETY: `slot` is valid for writes.
        unsafe { slot.write(device) };
        // SAFETY: `slot` is initialized, and pinned from here on. The drop takes it back.
        to_result(unsafe { bindings::misc_register(slot) })
    };
    // SAFETY: A registration is a `struct miscdevice` (`repr(transparent)`), made by `into_raw`,
    // and is initialized if that is registered.
    unsafe { pin_init_from_closure(init) }
}
