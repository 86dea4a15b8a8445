// SPDX-License-Identifier: GPL-2.0

//! What cases run on.

use std::path::{Path, PathBuf};

use crate::paths;

/// A kernel, and what was built for it.
pub struct Testbed {
    /// Its name.
    pub name: &'static str,
    /// The folder of the kernel.
    pub kernel: PathBuf,
    /// What is added to the kernel's command line.
    pub parameters: &'static str,
    /// The module under test.
    pub module: PathBuf,
    /// The folder of the modules that only the tests need.
    pub test_modules: PathBuf,
}

impl Testbed {
    /// The stock kernel.
    #[must_use]
    pub fn stock() -> Self {
        // To load and to unload the module waits for a dozen of RCU's grace periods; these are shorter.
        Self::of("stock", &paths::build(), "rcupdate.rcu_expedited=1")
    }

    /// The kernel that catches mistakes.
    #[must_use]
    pub fn debug() -> Self {
        // While it identifies a processor the kernel does not know that its tables have five levels
        // (`identify_cpu` in `arch/x86/kernel/cpu/common.c`), and KASAN reports what an interrupt then accesses.
        // So no guest here has such tables.
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
