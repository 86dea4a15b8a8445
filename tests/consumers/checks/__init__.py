# SPDX-License-Identifier: GPL-2.0
"""What each program must find in a core file.

Each module has a function `check(case)`. It returns a few words of what it has seen, or raises
Failed.
"""
