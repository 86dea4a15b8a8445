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

# What is run in the build root, with these variables if they are given.
in_root = @scripts/in-root $(MAKE) --no-print-directory $@ \
	$(foreach name,MINUTES SECONDS COUNT MIB,$(if $($(name)),$(name)='$($(name))'))

.PHONY: demo
demo: setup ## Inspects a real Linux guest in an emulated host, and asks QEMU whether all is true
	$(in_root)

# For the table at the end: what took how long.
.PHONY: forget-times
forget-times:
	@rm -f build/log/times build/log/vm/times

.PHONY: test
test: forget-times setup ## Runs the gates, the host tests, all cases on the stock kernel, a Linux guest, the demo
	$(in_root)

.PHONY: test-all
test-all: forget-times setup-all ## Runs all of that, and what takes long: the debug kernel, Intel, a real host's commands
	$(in_root)

.PHONY: unit
unit: setup ## Runs the tests that need no VM
	$(in_root)

# Of its variables those that were given here: the environment may have some of the same name.
given = $(if $(filter command line,$(origin $(1))),$($(1)))
kernel := $(or $(call given,KERNEL),stock)
vendor := $(or $(call given,VENDOR),amd)
paging := $(or $(call given,PAGING),nested)

.PHONY: case
case: case-words $(if $(filter-out stock amd,$(kernel) $(vendor)),setup-all,setup) ## Runs the cases with NAME= in their names; KERNEL=debug or VENDOR=intel, PAGING=shadow
	@scripts/in-root $(MAKE) --no-print-directory case NAME='$(call given,NAME)' KERNEL=$(kernel) \
		VENDOR=$(vendor) PAGING=$(paging)

.PHONY: case-words
case-words:
	@case '$(kernel) $(vendor) $(paging)' in \
	'stock amd '* | 'stock intel '* | 'debug amd '*) ;; \
	*) echo 'make: error: give KERNEL=stock or debug, VENDOR=amd or intel (only with the stock kernel)' >&2; exit 1 ;; \
	esac
	@case '$(paging)' in nested | shadow) ;; \
	*) echo 'make: error: give PAGING=nested or shadow' >&2; exit 1 ;; \
	esac
	@echo '$(subst ','\'',$(call given,NAME))' | grep -qx '[a-z0-9_]*[a-z0-9][a-z0-9_]*' || \
	{ echo 'make: error: which case? make case NAME=life_vmm_killed, or a part of some names' >&2; exit 1; }

.PHONY: soak
soak: setup-all ## Runs for MINUTES= (60) what may go wrong at any moment, again and again
	$(in_root)

.PHONY: fuzz
fuzz: setup-all ## Fuzzes the search for SECONDS= (60), at all levels, against a plain one
	$(in_root)

.PHONY: miri
miri: ## Runs tests of the search under Miri, if the machine has that
	@scripts/miri

.PHONY: bench-idle
bench-idle: setup ## Measures what the loaded module costs while it waits
	$(in_root)

.PHONY: bench-freeze
bench-freeze: setup ## Compares how long a guest stands with QEMU's stop and cont; COUNT= inspections of each
	$(in_root)

.PHONY: bench-pause
bench-pause: setup ## Compares a search by the module with what else there is: the guest's standstill, the whole time
	$(in_root)

.PHONY: bench-module
bench-module: setup ## Compares the ways in which the module searches, and kinds of memory
	$(in_root)

.PHONY: bench
bench: setup ## Compares the speed of the search with that of memory and of other searches; MIB= of it
	$(in_root)

.PHONY: check
check: setup ## Formatting and lints
	$(in_root)

.PHONY: format
format: setup ## Formats the Rust code
	$(in_root)

.PHONY: setup
setup: ## Makes the build root, unless it is there
	@scripts/build-root

.PHONY: setup-all
setup-all: ## The same, with what only make test-all, make soak and make fuzz need
	@scripts/build-root --all

.PHONY: clean
clean: ## Removes what was built, but not the build root
	rm -rf build/native build/module build/test-modules build/debug build/vm build/target build/programs.* \
		build/clippy build/fuzz/target build/log

.PHONY: distclean
distclean: ## Removes all that was made
	@scripts/build-root --remove
	rm -rf build

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

endif
