# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# What depends on Debian's release, in this one place; for scripts to source. The kernel itself is
# in tests/kernels.toml. What builds a module asks the kernel's configuration for the compiler.

# The release of the build root, whose backports the kernels come from.
suite=trixie
# The version of gcc that built these kernels.
gcc=14
# The version of rustc that did.
rust=1.85
# The version of clang that builds the debug kernels.
llvm=19
