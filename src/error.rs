// SPDX-License-Identifier: GPL-2.0

//! Error lines for people: what is wrong; what to do.

use kernel::prelude::*;

/// Logs one line that says what is wrong and what to do. Returns the error number.
///
/// Use it where the reason is known, and only there: one error, one line.
macro_rules! refuse {
    ($errno:expr, $($text:tt)*) => {{
        ::kernel::prelude::pr_err!("error: {}\n", ::kernel::prelude::fmt!($($text)*));
        $errno
    }};
}
pub(crate) use refuse;

/// Logs `ENOMEM`, which the failing call did not log itself.
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
