// SPDX-License-Identifier: GPL-2.0

//! What cases run on.

use std::path::{Path, PathBuf};

use crate::paths;

/// A kernel, and what was built for it.
pub struct Bed {
    /// Its name.
    pub name: &'static str,
    /// The folder of the kernel.
    pub kernel: PathBuf,
    /// The module under test.
    pub module: PathBuf,
    /// The folder of the modules that only the tests need.
    pub test_modules: PathBuf,
}

impl Bed {
    /// The stock kernel.
    #[must_use]
    pub fn stock() -> Self {
        Self::of("stock", &paths::build())
    }

    /// The kernel that catches mistakes.
    #[must_use]
    pub fn debug() -> Self {
        Self::of("debug", &paths::build().join("debug"))
    }

    fn of(name: &'static str, folder: &Path) -> Self {
        Self {
            name,
            kernel: folder.join("kernel"),
            module: folder.join("module/kvm_inspect.ko"),
            test_modules: folder.join("test-modules"),
        }
    }
}
