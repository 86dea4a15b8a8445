// SPDX-License-Identifier: GPL-2.0

//! Swap space, on a disk in memory. Beside it there is `/dev/ram1`, another one.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
};

use crate::{inspect::load_module, process::PAGE};

const DISK: &std::ffi::CStr = c"/dev/ram0";
/// How much of it there is. The disk takes no memory but for what was written to it.
const PAGES: u32 = 32768;

/// Turns swapping on, unless it is on.
pub(crate) fn turn_on() {
    if File::open("/dev/ram0").is_ok() {
        return;
    }
    let kib = u64::from(PAGES) * PAGE / 1024;
    load_module("/modules/brd.ko", &format!("rd_nr=2 rd_size={kib}")).expect("a disk in memory");
    let disk = OpenOptions::new().write(true).open("/dev/ram0");
    let disk = disk.expect("the disk is there");
    // `union swap_header` of the kernel's `include/linux/swap.h`: version and last page.
    for (offset, bytes) in [
        (1024, &1_u32.to_ne_bytes()[..]),
        (1028, &(PAGES - 1).to_ne_bytes()),
        (PAGE - 10, b"SWAPSPACE2"),
    ] {
        disk.write_all_at(bytes, offset).expect("it can be written");
    }
    drop(disk);
    // SAFETY: The path is a C string.
    let result = unsafe { libc::swapon(DISK.as_ptr(), 0) };
    assert_eq!(result, 0, "swapon: {}", io::Error::last_os_error());
}
