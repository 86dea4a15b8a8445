// SPDX-License-Identifier: GPL-2.0

//! The kernels that cases run on.

use std::path::{Path, PathBuf};

use crate::paths;

/// A kernel, and what was built for it.
pub struct Testbed {
    /// Its name.
    pub name: &'static str,
    /// The folder of the kernel.
    pub kernel: PathBuf,
    /// More parameters for the kernel.
    pub parameters: &'static str,
    /// The module under test.
    pub module: PathBuf,
    /// The folder of the tests' own modules.
    pub test_modules: PathBuf,
}

impl Testbed {
    /// Returns the stock kernel.
    #[must_use]
    pub fn stock() -> Self {
        // Loading and unloading the module waits for a dozen RCU grace periods. These are shorter.
        Self::of("stock", &paths::build(), "rcupdate.rcu_expedited=1")
    }

    /// Returns the debug kernel, which catches mistakes.
    #[must_use]
    pub fn debug() -> Self {
        // While the kernel identifies a processor it does not know yet that page tables have five
        // levels (`identify_cpu` in `arch/x86/kernel/cpu/common.c`). KASAN reports what an
        // interrupt accesses then. So no guest here has such tables.
        Self::of("debug", &paths::build().join("debug"), "no5lvl")
    }

    fn of(name: &'static str, folder: &Path, parameters: &'static str) -> Self {
        Self {
            name,
            kernel: folder.join("kernel"),
            parameters,
            module: folder.join("module/kvm_inspect.ko"),
            test_modules: folder.join("test-modules"),
        }
    }
}
