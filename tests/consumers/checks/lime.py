# SPDX-License-Identifier: GPL-2.0
"""LiME: the file has the memory of the core file, and Volatility opens it."""

import mmap
import struct

from .case import demand
from .core import Core
from .volatility import plugin

# `lime_mem_range_header` (LiME, src/lime.h).
HEADER = struct.Struct("<IIQQQ")
MAGIC, VERSION = 0x4C694D45, 1


def check(case):
    demand(case.lime, "there is no --lime")
    core = Core(case.core)
    with open(case.lime, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    at, ranges = 0, []
    while at < len(data):
        magic, version, first, last, _ = HEADER.unpack_from(data, at)
        demand((magic, version) == (MAGIC, VERSION), f"there is no header at {at:#x}")
        at, size = at + HEADER.size, last + 1 - first
        demand(at + size <= len(data), "it ends within a range")
        offset = core.offset_of(first)
        demand(offset and data[at : at + size] == core.data[offset : offset + size],
               f"the range at {first:#x} differs from the core file's")
        ranges.append((first, size))
        at += size
    demand(ranges == [(load.gpa, load.size) for load in core.loads], f"the ranges are {ranges}")
    # It has no page tables of five levels.
    if case.expected["levels"] == 4:
        rows = plugin(case, "linux.pslist.PsList", file=case.lime)
        case.demand_tasks((row["PID"], row["COMM"]) for row in rows)
    return f"{len(ranges)} ranges"
