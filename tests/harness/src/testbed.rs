// SPDX-License-Identifier: GPL-2.0

//! The kernels that cases run on.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::paths;

/// A kernel, and what was built for it.
pub struct Testbed {
    /// Its name.
    pub name: String,
    /// The folder of the kernel.
    pub kernel: PathBuf,
    /// More parameters for the kernel.
    pub parameters: String,
    /// Whether it looks for mistakes, which is slow.
    pub is_debug: bool,
    /// The module under test.
    pub module: PathBuf,
    /// The folder of the tests' own modules.
    pub test_modules: PathBuf,
}

/// `tests/kernels.toml`, as far as testbeds need it. scripts/kernel reads the rest.
#[derive(Deserialize)]
struct Kernels {
    kernel: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    #[serde(default)]
    parameters: String,
    config: Option<String>,
}

impl Testbed {
    /// Returns the stock kernel.
    #[must_use]
    pub fn stock() -> Self {
        Self::of("stock", &paths::build(), "", false)
    }

    /// Returns the debug kernel, which catches mistakes.
    #[must_use]
    pub fn debug() -> Self {
        // While the kernel identifies a processor it does not know yet that page tables have five
        // levels (`identify_cpu` in `arch/x86/kernel/cpu/common.c`). KASAN reports what an
        // interrupt accesses then. So no guest here has such tables.
        Self::of("debug", &paths::build().join("debug"), "no5lvl", true)
    }

    /// Returns the kernels of `tests/kernels.toml`, the stock one first.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn listed() -> io::Result<Vec<Self>> {
        let path = paths::project().join("tests/kernels.toml");
        let listed: Kernels =
            basic_toml::from_str(&fs::read_to_string(path)?).map_err(io::Error::other)?;
        let testbeds = listed.kernel.iter().map(|kernel| {
            if kernel.name == "stock" {
                return Self::stock();
            }
            let folder = paths::build().join("kernels").join(&kernel.name);
            let is_debug = kernel.config.is_some();
            Self::of(&kernel.name, &folder, &kernel.parameters, is_debug)
        });
        Ok(testbeds.collect())
    }

    /// Returns the kernel of that name: the debug kernel, or one of `tests/kernels.toml`.
    ///
    /// # Errors
    ///
    /// There is none. Those of [`Testbed::listed`].
    pub fn named(name: &str) -> io::Result<Self> {
        let mut all = Self::listed()?;
        all.push(Self::debug());
        let names: Vec<String> = all.iter().map(|testbed| testbed.name.clone()).collect();
        let mut all = all.into_iter();
        all.find(|testbed| testbed.name == name).ok_or_else(|| {
            let names = names.join(", ");
            io::Error::other(format!("there is no kernel {name:?}; there are {names}"))
        })
    }

    fn of(name: &str, folder: &Path, parameters: &str, is_debug: bool) -> Self {
        // Loading and unloading the module waits for a dozen RCU grace periods. These are shorter.
        let expedited = if is_debug {
            ""
        } else {
            "rcupdate.rcu_expedited=1 "
        };
        Self {
            name: name.to_owned(),
            kernel: folder.join("kernel"),
            parameters: format!("{expedited}{parameters}"),
            is_debug,
            module: folder.join("module/kvm_inspect.ko"),
            test_modules: folder.join("test-modules"),
        }
    }
}
