# SPDX-License-Identifier: GPL-2.0
"""LeechCore: opens the file, has its ranges, and reads them."""

import leechcorepyc

from .case import Failed, demand
from .core import Core

CHUNK = 1 << 20


def check(case):
    core = Core(case.core)
    try:
        device = leechcorepyc.LeechCore(f"file://{case.core}")
    except RuntimeError as error:
        raise Failed(str(error)) from error
    ranges = [(one["base"], one["size"]) for one in device.memmap]
    demand(ranges == [(load.gpa, load.size) for load in core.loads],
           f"the ranges are {ranges}")
    found = []
    for base, size in ranges:
        for gpa in range(base, base + size, CHUNK):
            length = min(CHUNK, base + size - gpa)
            bytes_read = device.read(gpa, length)
            offset = core.offset_of(gpa)
            demand(bytes_read == core.data[offset : offset + length],
                   f"it reads something else at {gpa:#x}")
            at = bytes_read.find(case.secret)
            if at >= 0:
                found.append(gpa + at)
    demand(found, "the secret is not there")
    return f"{len(ranges)} ranges"
