# SPDX-License-Identifier: GPL-2.0
#
# The targets of the Makefile inside the build root, for the stock kernel of the test VMs.

release := $(shell cat build/kernel/release)
kdir := /kvm_inspect/build/kdir
build := /kvm_inspect/build

# The same flags for all programs, so that what several of them use is compiled once. The VMs have
# no libraries, so all is linked statically.
export CARGO_BUILD_TARGET := x86_64-unknown-linux-gnu
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS := -C target-feature=+crt-static
vm := cargo run --quiet --locked --release --package harness --bin

# With the tree, which the gates and rust-analyzer need.
.PHONY: metadata
metadata:
	@scripts/rust-metadata --keep-tree /lib/modules/$(release)/build $(kdir)

.PHONY: module
module: metadata
	@scripts/build-module $(kdir) . $(build)/module

# After the module: both take the same lock.
.PHONY: test-modules
test-modules: metadata module
	@scripts/build-module $(kdir) tests/cases/modules $(build)/test-modules

# The same for the kernel that catches mistakes.
.PHONY: debug
debug:
	@scripts/debug-kernel $(build)/debug
	@scripts/build-module $(build)/debug/build . $(build)/debug/module
	@scripts/build-module $(build)/debug/build tests/cases/modules $(build)/debug/test-modules

# The same for one of the other kernels in tests/kernels.toml, in build/kernels/NAME.
kernel-%:
	@scripts/build-for $*

.PHONY: programs
programs:
	@scripts/build-programs

# All that the VMs of the stock kernel need, side by side: no part of it keeps two processors busy.
.PHONY: stock
stock:
	@[ -e $(kdir)/stamp ] || echo 'Building the module and the programs, side by side;' \
		'this takes some minutes ...'
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line test-modules programs

.PHONY: command
command:
	@scripts/build-command

.PHONY: deb
deb:
	@scripts/build-deb

# In a fresh Debian system: the packages, and README's commands.
.PHONY: test-packages
test-packages: programs
	@scripts/test-packages $(STAGE)

.PHONY: demo
demo: stock
	@$(vm) demo

.PHONY: consumers
consumers: stock
	@scripts/consumers
	@$(vm) consumers

# The same without KVM and the module.
.PHONY: test-consumers
test-consumers: programs
	@scripts/test-consumers

.PHONY: case
case: $(if $(filter stock,$(KERNEL)),stock,\
	$(if $(filter debug,$(KERNEL)),debug,kernel-$(KERNEL)) programs)
	@$(vm) case -- $(NAME) --kernel $(KERNEL) --vendor $(VENDOR) --paging $(PAGING)

.PHONY: unit
unit:
	@scripts/test unit

.PHONY: test
test: stock
	@scripts/test

.PHONY: test-all
test-all: stock
	@scripts/test all

.PHONY: test-kernels
test-kernels: stock
	@scripts/test kernels

.PHONY: soak
soak: stock debug
	@$(vm) soak -- $(MINUTES)

.PHONY: bench-freeze
bench-freeze: stock
	@$(vm) bench-freeze -- $(COUNT)

.PHONY: bench-pause
bench-pause: stock
	@$(vm) bench-pause

.PHONY: bench-dump
bench-dump: stock
	@$(vm) bench-dump

# The last two measure nothing: they do without the module what cases do (docs/testing.md).
.PHONY: bench-device bench-idle bench-module threads-alone threads-probed-alone
bench-device bench-idle bench-module threads-alone threads-probed-alone: stock
	@$(vm) measure -- $@

.PHONY: fuzz
fuzz:
	@scripts/fuzz $(SECONDS)

# A file of patterns may be named by its path on the host.
.PHONY: bench
bench: export CARGO_TARGET_DIR := $(build)/bench/target
bench:
	@scripts/guest-image $(build)/bench/guest.ram
	@cargo run --quiet --locked --release --manifest-path bench/Cargo.toml -- \
		$(build)/bench/guest.ram \
		$(if $(MIB),--mib '$(MIB)') $(if $(KIND),--kind '$(KIND)') \
		$(if $(INPUT),--input '$(INPUT)') $(if $(COUNT),--count '$(COUNT)') \
		$(if $(PATTERNS),--patterns '$(patsubst $(KVM_INSPECT_TOP)/%,%,$(PATTERNS))')

.PHONY: check
check: metadata
	@scripts/check $(kdir)/tree

.PHONY: rust-analyzer
rust-analyzer: module
	@scripts/rust-analyzer $(kdir)/tree $(build)/module

.PHONY: format
format:
	@scripts/check --format
