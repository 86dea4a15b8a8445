// SPDX-License-Identifier: GPL-2.0

//! Paths in the project's folder, which the environment may replace.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Returns the project's folder.
#[must_use]
pub fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Returns the folder of all that is built: `KVM_INSPECT_BUILD`, or `build`.
#[must_use]
pub fn build() -> PathBuf {
    env_or("KVM_INSPECT_BUILD", || project().join("build"))
}

/// Returns the program with the cases: `KVM_INSPECT_CASES`, or the one that cargo builds from the
/// crate `cases`.
#[must_use]
pub fn cases() -> PathBuf {
    env_or("KVM_INSPECT_CASES", || {
        build().join("target/x86_64-unknown-linux-gnu/release/cases")
    })
}

/// Returns the folder of the logs: `KVM_INSPECT_LOG`, or `build/log/vm`.
#[must_use]
pub fn log() -> PathBuf {
    env_or("KVM_INSPECT_LOG", || build().join("log/vm"))
}

/// Returns the factor for repeat counts: `KVM_INSPECT_SCALE`, or 1.
#[must_use]
pub fn scale() -> u32 {
    let scale = env::var("KVM_INSPECT_SCALE").ok();
    scale.and_then(|scale| scale.parse().ok()).unwrap_or(1)
}

fn env_or(name: &str, default: impl FnOnce() -> PathBuf) -> PathBuf {
    env::var_os(name).map_or_else(default, PathBuf::from)
}
