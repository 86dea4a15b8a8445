// SPDX-License-Identifier: GPL-2.0

//! Where things are: below the project's folder, unless the environment says otherwise.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The project's folder.
#[must_use]
pub fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The folder of all that is made: `KVM_INSPECT_BUILD`, or `build`.
#[must_use]
pub fn build() -> PathBuf {
    env_or("KVM_INSPECT_BUILD", || project().join("build"))
}

/// The folder of the kernel to boot: `KVM_INSPECT_KERNEL`, or `build/kernel`.
#[must_use]
pub fn kernel() -> PathBuf {
    env_or("KVM_INSPECT_KERNEL", || build().join("kernel"))
}

/// The module under test: `KVM_INSPECT_MODULE`, or `build/module/kvm_inspect.ko`.
#[must_use]
pub fn module() -> PathBuf {
    env_or("KVM_INSPECT_MODULE", || {
        build().join("module/kvm_inspect.ko")
    })
}

/// The folder of the modules that only the tests need: `KVM_INSPECT_TEST_MODULES`, or
/// `build/test-modules`.
#[must_use]
pub fn test_modules() -> PathBuf {
    env_or("KVM_INSPECT_TEST_MODULES", || build().join("test-modules"))
}

/// The program of the crate `guest`: `KVM_INSPECT_GUEST`, or what `cargo build --release` in its
/// folder makes.
#[must_use]
pub fn guest() -> PathBuf {
    env_or("KVM_INSPECT_GUEST", || {
        build().join("target/x86_64-unknown-linux-gnu/release/guest")
    })
}

/// The folder of the logs: `KVM_INSPECT_LOG`, or `build/log/vm`.
#[must_use]
pub fn log() -> PathBuf {
    env_or("KVM_INSPECT_LOG", || build().join("log/vm"))
}

fn env_or(name: &str, default: impl FnOnce() -> PathBuf) -> PathBuf {
    env::var_os(name).map_or_else(default, PathBuf::from)
}
