# SPDX-License-Identifier: GPL-2.0
#
# `make help` names the targets. What belongs to the module's own build is in Kbuild.

ifneq ($(wildcard /etc/kvm_inspect_root),)
include scripts/in-root.mk
else

KDIR ?= /lib/modules/$(shell uname -r)/build
native := $(CURDIR)/build/native
MINUTES ?= 60
SECONDS ?= 60

.PHONY: all
all: ## Builds the module for the kernel that runs, or for the headers in KDIR=
	@[ $(words $(CURDIR)) -eq 1 ] || { echo 'make: error: Kbuild cannot take a path with a space; move the project' >&2; exit 1; }
	@scripts/rust-metadata $(KDIR) $(native)/kdir
	@scripts/build-module $(native)/kdir . $(native)/module
	@echo 'Built: build/native/module/kvm_inspect.ko'

.PHONY: demo
demo: setup ## Inspects a real Linux guest in an emulated host, and asks QEMU whether all is true
	@scripts/in-root $(MAKE) --no-print-directory demo

.PHONY: test
test: setup ## Runs all tests
	@scripts/in-root $(MAKE) --no-print-directory test

.PHONY: soak
soak: setup ## Runs for MINUTES= (60) what may go wrong at any moment, again and again
	@scripts/in-root $(MAKE) --no-print-directory soak MINUTES=$(MINUTES)

.PHONY: fuzz
fuzz: setup ## Fuzzes the search for SECONDS= (60), at all levels, against a plain one
	@scripts/in-root $(MAKE) --no-print-directory fuzz SECONDS=$(SECONDS)

.PHONY: miri
miri: ## Runs tests of the search under Miri, if the machine has that
	@scripts/miri

.PHONY: bench-idle
bench-idle: setup ## Measures what the loaded module costs while it waits
	@scripts/in-root $(MAKE) --no-print-directory bench-idle

.PHONY: bench-freeze
bench-freeze: setup ## Compares how long a guest stands with QEMU's stop and cont; COUNT= inspections of each
	@scripts/in-root $(MAKE) --no-print-directory bench-freeze $(if $(COUNT),COUNT=$(COUNT))

.PHONY: bench-pause
bench-pause: setup ## Compares a search by the module with what else there is: the guest's standstill, the whole time
	@scripts/in-root $(MAKE) --no-print-directory bench-pause

.PHONY: bench-module
bench-module: setup ## Compares the ways in which the module searches, and kinds of memory
	@scripts/in-root $(MAKE) --no-print-directory bench-module

.PHONY: bench
bench: setup ## Compares the speed of the search with that of memory and of other searches; MIB= of it
	@scripts/in-root $(MAKE) --no-print-directory bench $(if $(MIB),MIB=$(MIB))

.PHONY: check
check: setup ## Formatting and lints
	@scripts/in-root $(MAKE) --no-print-directory check

.PHONY: format
format: setup ## Formats the Rust code
	@scripts/in-root $(MAKE) --no-print-directory format

.PHONY: setup
setup: ## Makes the build root, unless it is there
	@scripts/build-root

.PHONY: clean
clean: ## Removes what was built, but not the build root
	rm -rf build/native build/module build/test-modules build/debug build/vm build/target build/fuzz/target build/log

.PHONY: distclean
distclean: ## Removes all that was made
	@scripts/build-root --remove
	rm -rf build

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

endif
