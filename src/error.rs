// SPDX-License-Identifier: GPL-2.0

//! Error lines for people: what is wrong; what to do. They go to the kernel log, or to who has
//! asked through the device.

use kernel::{
    fmt,
    prelude::*, //
};

use crate::linux::log;

/// Says in one line what is wrong and what to do. Returns the error number.
///
/// Use it where the reason is known, and only there: one error, one line.
macro_rules! refuse {
    ($errno:expr, $($text:tt)*) => {{
        $crate::error::say_error(::kernel::prelude::fmt!($($text)*));
        $errno
    }};
}
pub(crate) use refuse;

/// Says in one line what a refusal that follows is about.
macro_rules! explain {
    ($($text:tt)*) => {
        $crate::error::say_warning(::kernel::prelude::fmt!($($text)*))
    };
}
pub(crate) use explain;

/// For [`refuse`].
pub(crate) fn say_error(line: fmt::Arguments<'_>) {
    if !log::tell(line) {
        pr_err!("error: {line}\n");
    }
}

/// For [`explain`].
pub(crate) fn say_warning(line: fmt::Arguments<'_>) {
    if !log::tell(line) {
        pr_warn!("{line}\n");
    }
}

/// Says so if the error is `ENOMEM`, which the failing call did not say itself.
pub(crate) fn explain_memory(error: Error) -> Error {
    if error == ENOMEM {
        refuse!(
            error,
            "the kernel has no memory left; free some, and try again"
        )
    } else {
        error
    }
}
