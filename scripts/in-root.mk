# SPDX-License-Identifier: GPL-2.0
#
# The targets of the Makefile inside the build root, for the stock kernel of the test VMs.

release := $(shell cat build/kernel/release)
kdir := /kvm_inspect/build/kdir
build := /kvm_inspect/build

.PHONY: metadata
metadata:
	@scripts/rust-metadata /lib/modules/$(release)/build $(kdir)

.PHONY: module
module: metadata
	@scripts/build-module $(kdir) . $(build)/module

# The same for the kernel that catches mistakes.
.PHONY: debug
debug:
	@scripts/debug-kernel $(build)/debug
	@scripts/build-module $(build)/debug/build . $(build)/debug/module
	@scripts/build-module $(build)/debug/build tests/guest/modules $(build)/debug/test-modules

.PHONY: programs
programs:
	@scripts/build-programs

.PHONY: demo
demo: module programs
	@cargo run --quiet --locked --release --package vm --bin demo

.PHONY: bench-freeze
bench-freeze: module programs
	@cargo run --quiet --locked --release --package vm --bin bench-freeze -- $(COUNT)

.PHONY: bench-pause
bench-pause: module programs
	@cargo run --quiet --locked --release --package vm --bin bench-pause

.PHONY: test-modules
test-modules: metadata
	@scripts/build-module $(kdir) tests/guest/modules $(build)/test-modules

.PHONY: test
test: module test-modules programs debug
	@scripts/test

.PHONY: soak
soak: module test-modules programs debug
	@cargo run --quiet --locked --release --package vm --bin soak -- $(MINUTES)

.PHONY: fuzz
fuzz:
	@scripts/fuzz $(SECONDS)

.PHONY: bench-idle bench-module
bench-idle bench-module: module test-modules programs
	@cargo run --quiet --locked --release --package vm --bin measure -- $@

.PHONY: bench
bench: export CARGO_TARGET_DIR := $(build)/bench/target
bench:
	@scripts/guest-image $(build)/bench/guest.ram
	@cargo run --quiet --locked --release --manifest-path bench/Cargo.toml -- $(build)/bench/guest.ram $(MIB)

.PHONY: check
check: metadata
	@scripts/check $(kdir)

.PHONY: format
format:
	@scripts/check --format
