// SPDX-License-Identifier: GPL-2.0

//! Links vectorscan. Only its static library has the scans of each level under names of their own.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_VECTORSCAN").is_some() {
        println!("cargo::rustc-link-search=native=/usr/lib/x86_64-linux-gnu");
        println!("cargo::rustc-link-lib=static=hs");
        println!("cargo::rustc-link-lib=stdc++");
        println!("cargo::rustc-link-lib=m");
    }
}
