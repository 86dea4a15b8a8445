// SPDX-License-Identifier: GPL-2.0

//! What differs between the kernels that the module builds for, 7.2 and 7.3.
//!
//! Each of these works with both; the code that uses them need not know which one it is. So do
//! [`super::miscdevice`] and, in `bindings/helpers.c`, the functions of SRCU.

use core::{
    borrow::Borrow,
    mem::transmute, //
};

use kernel::{
    bindings,
    prelude::*,
    time::{
        Delta,
        NSEC_PER_MSEC, //
    }, //
};

// The crate of 7.2 has few of the error numbers beyond those of the first Unix.
pub(crate) const ENODATA: Error = error(bindings::ENODATA);
pub(crate) const ENOTCONN: Error = error(bindings::ENOTCONN);
pub(crate) const ENOTUNIQ: Error = error(bindings::ENOTUNIQ);
pub(crate) const EOPNOTSUPP: Error = error(bindings::EOPNOTSUPP);
pub(crate) const ETIME: Error = error(bindings::ETIME);

/// Returns the error with this number. [`Error::from_errno`] does, too, but not for a constant.
const fn error(number: u32) -> Error {
    // SAFETY: The numbers above are of errors, and an `Error` is such a number, negated: see below.
    unsafe { transmute::<i32, Error>(-(number as i32)) }
}

// SAFETY: Both types have four bytes, and any four bytes are an `i32`.
static_assert!(unsafe { transmute::<Error, i32>(EINVAL) } == -(bindings::EINVAL as i32));

/// Returns the value of a parameter, which is given as itself or, by 7.2, as a reference.
pub(crate) fn parameter(value: impl Borrow<i64>) -> i64 {
    *value.borrow()
}

/// Returns the smallest number of milliseconds that is not less than `time`.
pub(crate) const fn as_millis_ceil(time: Delta) -> i64 {
    let nanos = time.as_nanos();
    // A division rounds negative values up.
    nanos / NSEC_PER_MSEC + (nanos % NSEC_PER_MSEC > 0) as i64
}
