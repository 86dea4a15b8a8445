# SPDX-License-Identifier: GPL-2.0
#
# The targets of the Makefile inside the build root, for the stock kernel of the test VMs.

release := $(shell cat build/kernel/release)
kdir := /kvm_inspect/build/kdir
build := /kvm_inspect/build
target := x86_64-unknown-linux-gnu
# What runs in the VMs has no libraries there.
static := CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"

.PHONY: metadata
metadata:
	@scripts/rust-metadata /lib/modules/$(release)/build $(kdir)

.PHONY: module
module: metadata
	@scripts/build-module $(kdir) . $(build)/module

.PHONY: programs
programs:
	@$(static) cargo build --quiet --locked --release --target $(target) --package guest --package demo

.PHONY: demo
demo: module programs
	@cargo run --quiet --locked --release --package vm --bin demo

.PHONY: test
test: module programs
	@scripts/build-module $(kdir) tests/guest/modules $(build)/test-modules
	@scripts/test

.PHONY: check
check: metadata
	@scripts/check $(kdir)

.PHONY: format
format:
	@scripts/check --format
