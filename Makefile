# SPDX-License-Identifier: GPL-2.0
#
# `make help` prints the lines that begin with `##`. The module's own build is in Kbuild.

ifneq ($(wildcard /etc/kvm_inspect_root),)
include scripts/in-root.mk
else

KDIR ?= /lib/modules/$(shell uname -r)/build
MINUTES ?= 60
SECONDS ?= 60

## all            Builds the module for the kernel that runs, or for the headers in KDIR=, by the
##                kernel's source in SOURCE= where that is needed
.PHONY: all
all:
	@[ $(words $(CURDIR)) -eq 1 ] || { \
		echo 'make: error: Kbuild cannot take a path with a space; move the project' >&2; \
		exit 1; }
	@scripts/build-native '$(KDIR)'

# Each of these runs the target of its name in the build root (scripts/in-root.mk).
#
## check          Runs the gates: format, lints, imports, unsafe code, columns, spelling
## format         Formats the Rust code
## unit           Runs the tests that need no VM
## test           Runs check, unit, all cases on the stock kernel, a Linux guest, the demo
## demo           Inspects a real Linux guest in an emulated host, and compares with what QEMU knows
## consumers      Dumps such a guest, and has drgn, crash, gdb and others open the file
## rust-analyzer  Writes rust-project.json, by which an editor understands the module
## command        Builds the command kvm-inspect, its manual and completions, in build/command
## bench          Compares the search with memory and others; MIB=, KIND=, INPUT=, COUNT=, PATTERNS=
## bench-module   Compares the module's ways to search, and kinds of memory
## bench-pause    Compares a search by the module with others: the pause, and the whole time
## bench-dump     Compares a dump with QEMU's: how long the guest stands, and the whole time
## bench-freeze   Compares a guest's pause with QEMU's stop and cont, COUNT= times each
## bench-device   Compares the device with loading the module, and its copies with memcpy
## bench-idle     Measures what the loaded module costs while it waits
in_root_targets := check format unit test demo consumers rust-analyzer command \
	bench bench-module bench-pause bench-dump bench-freeze bench-device bench-idle
## test-all       Runs test, and what takes long: the debug kernel, Intel, README's commands
## deb            Builds the Debian packages, of the module and of the command, in build/deb
## test-packages  Installs, boots and removes these in fresh systems, and runs README's commands
## test-kernels   Runs the core cases on each kernel of tests/kernels.toml
## soak           Repeats for MINUTES= (60) what may go wrong at any moment
## fuzz           Fuzzes the search for SECONDS= (60), with all engines, against a plain one
in_root_targets_all := deb test-packages test-all test-kernels soak fuzz

.PHONY: $(in_root_targets) $(in_root_targets_all)
test test-all test-kernels: forget-times
$(in_root_targets): setup
$(in_root_targets_all): setup-all
$(in_root_targets) $(in_root_targets_all): %:
	@scripts/in-root $(MAKE) --no-print-directory $@ $(foreach name,\
		MINUTES SECONDS COUNT MIB KIND INPUT PATTERNS,$(if $($(name)),$(name)='$($(name))'))

# For the table at the end of the tests: what took how long.
.PHONY: forget-times
forget-times:
	@rm -f build/log/times build/log/vm/times

# The environment may have variables of the same names, so only those of the command line count.
given = $(if $(filter command line,$(origin $(1))),$($(1)))
kernel := $(or $(call given,KERNEL),stock)
vendor := $(or $(call given,VENDOR),amd)
paging := $(or $(call given,PAGING),nested)

## case           Runs cases by a part of their NAME=; KERNEL=debug (or of tests/kernels.toml),
##                VENDOR=intel, PAGING=shadow
.PHONY: case
case: case-words $(if $(filter-out stock amd,$(kernel) $(vendor)),setup-all,setup)
	@scripts/in-root $(MAKE) --no-print-directory case NAME='$(call given,NAME)' \
		KERNEL=$(kernel) VENDOR=$(vendor) PAGING=$(paging)

.PHONY: case-words
case-words:
	@case '$(kernel) $(vendor)' in \
	'stock intel' | 'debug amd') ;; \
	*' amd') sed -n 's/^name = "\(.*\)"$$/\1/p' tests/kernels.toml | grep -qxF '$(kernel)' ;; \
	*) false ;; \
	esac || { \
		echo 'make: error: give KERNEL=debug or one of tests/kernels.toml, VENDOR=amd or' \
			'intel (only with the stock kernel)' >&2; exit 1; }
	@case '$(paging)' in nested | shadow) ;; \
	*) echo 'make: error: give PAGING=nested or shadow' >&2; exit 1 ;; \
	esac
	@echo '$(subst ','\'',$(call given,NAME))' | grep -qx '[a-z0-9_]*[a-z0-9][a-z0-9_]*' || { \
		echo 'make: error: which case? make case NAME=life_vmm_killed,' \
			'or a part of some names' >&2; exit 1; }

## miri           Runs tests of the search under Miri, if the machine has it
.PHONY: miri
miri:
	@scripts/miri

## hooks          Has git run the quick gates before each commit
.PHONY: hooks
hooks:
	@scripts/hooks

## setup          Makes the build root, unless it is there
.PHONY: setup
setup:
	@scripts/build-root

## setup-all      The same, with what only make test-all, make soak and make fuzz need
.PHONY: setup-all
setup-all:
	@scripts/build-root --all

## clean          Removes what was built, but not the build root
.PHONY: clean
clean:
	rm -rf build/native build/module build/test-modules build/debug build/kernels build/vm \
		build/target build/deb \
		build/programs.* build/clippy build/consumers build/fuzz/target build/log \
		build/rust-analyzer build/command rust-project.json

## distclean      Removes all that was made
.PHONY: distclean
distclean:
	@scripts/build-root --remove
	rm -rf build rust-project.json

## help           Prints this list
.PHONY: help
help:
	@sed -n 's/^## /make /p' Makefile

endif
