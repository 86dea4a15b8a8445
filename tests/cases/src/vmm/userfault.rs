// SPDX-License-Identifier: GPL-2.0

//! A page that makes whoever touches it wait.

use std::{fs::File, io::Read, os::fd::AsRawFd, sync::Arc};

use rustix::mm::{userfaultfd, UserfaultfdFlags};
use vmm_sys_util::{ioctl::ioctl_with_mut_ref, ioctl_iowr_nr};

use super::mapping::{Backing, Mapping};
use crate::process::PAGE;

/// `struct uffdio_api` of `include/uapi/linux/userfaultfd.h`.
#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct UffdioRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_rwprotect`.
#[repr(C)]
struct UffdioRwprotect {
    start: u64,
    len: u64,
    mode: u64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
struct UffdioZeropage {
    start: u64,
    len: u64,
    mode: u64,
    zeropage: i64,
}

const UFFD_API: u64 = 0xaa;
const UFFDIO: u32 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const UFFDIO_REGISTER_MODE_RWP: u64 = 1 << 3;
const UFFD_FEATURE_RWP: u64 = 1 << 17;
const UFFDIO_RWPROTECT_MODE_RWP: u64 = 1;
/// The size of `struct uffd_msg`.
const MESSAGE_SIZE: usize = 32;

ioctl_iowr_nr!(UFFDIO_API, UFFDIO, 0x3f, UffdioApi);
ioctl_iowr_nr!(UFFDIO_REGISTER, UFFDIO, 0x00, UffdioRegister);
ioctl_iowr_nr!(UFFDIO_RWPROTECT, UFFDIO, 0x09, UffdioRwprotect);
ioctl_iowr_nr!(UFFDIO_ZEROPAGE, UFFDIO, 0x04, UffdioZeropage);

/// A page whose owner is told when somebody touches it.
pub(crate) struct Userfault {
    file: File,
    page: Arc<Mapping>,
}

impl Userfault {
    /// Creates one that is absent until [`Self::resolve`] is called.
    pub(crate) fn new() -> Self {
        Self::register(0, UFFDIO_REGISTER_MODE_MISSING).expect("the kernel knows this version")
    }

    /// Creates one that is there, and that nobody touches unnoticed: since 7.3.
    pub(crate) fn access_tracked() -> Option<Self> {
        let this = Self::register(UFFD_FEATURE_RWP, UFFDIO_REGISTER_MODE_RWP)?;
        this.page.write(0, &[1]);
        let mut protect = UffdioRwprotect {
            start: this.address(),
            len: PAGE,
            mode: UFFDIO_RWPROTECT_MODE_RWP,
        };
        // SAFETY: The ioctl takes this structure, and the page is ours.
        let result = unsafe { ioctl_with_mut_ref(&this.file, UFFDIO_RWPROTECT(), &mut protect) };
        assert_eq!(result, 0, "the page can be protected");
        Some(this)
    }

    /// Creates one, unless the kernel lacks these features.
    fn register(features: u64, mode: u64) -> Option<Self> {
        let page = Mapping::new(PAGE, Backing::Anonymous);
        // SAFETY: It only handles pages of the mapping, which is accessed by volatile operations.
        let file = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC) };
        let this = Self {
            file: file.expect("userfaultfd is there").into(),
            page,
        };
        let mut api = UffdioApi {
            api: UFFD_API,
            features,
            ioctls: 0,
        };
        // SAFETY: The ioctl takes this structure.
        if unsafe { ioctl_with_mut_ref(&this.file, UFFDIO_API(), &mut api) } != 0 {
            return None;
        }
        let mut register = UffdioRegister {
            start: this.address(),
            len: PAGE,
            mode,
            ioctls: 0,
        };
        // SAFETY: The ioctl takes this structure, and the page is ours.
        let result = unsafe { ioctl_with_mut_ref(&this.file, UFFDIO_REGISTER(), &mut register) };
        assert_eq!(result, 0, "the page can be handled");
        Some(this)
    }

    /// Returns the page.
    pub(crate) fn memory(&self) -> &Arc<Mapping> {
        &self.page
    }

    /// Returns the address of the page.
    pub(crate) fn address(&self) -> u64 {
        self.page.address()
    }

    /// Waits until somebody waits for the page.
    pub(crate) fn wait(&self) {
        let mut message = [0; MESSAGE_SIZE];
        (&self.file)
            .read_exact(&mut message)
            .expect("a message comes");
    }

    /// Fills the page with zeros, for whoever waits.
    pub(crate) fn resolve(&self) {
        let mut zeropage = UffdioZeropage {
            start: self.address(),
            len: PAGE,
            mode: 0,
            zeropage: 0,
        };
        // SAFETY: The ioctl takes this structure, and the page is ours.
        let result = unsafe { ioctl_with_mut_ref(&self.file, UFFDIO_ZEROPAGE(), &mut zeropage) };
        assert_eq!(result, 0, "descriptor {}", self.file.as_raw_fd());
    }
}
