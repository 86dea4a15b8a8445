# SPDX-License-Identifier: GPL-2.0
"""Compares a core file, page for page and CPU for CPU, with QEMU's dump of the same stop."""

import struct

from .case import Failed, demand
from .core import PAGE, PRSTATUS_PID, PRSTATUS_SIZE, Core

CHUNK = 1 << 20
# How many differences are shown.
SHOWN = 5
# Where PCs have firmware and its copies. The one may call it memory and the other not.
FIRMWARE = [(0xA0000, 0x100000), (0xFE000000, 0x100000000)]
# Of a segment in QEMU's note, what Linux's descriptors have besides base and limit. QEMU has the
# other bits of the word for some segments, and not for others.
FLAGS = 0x00F0FF00


def check(case):
    demand(case.witness, "there is no --witness to compare with")
    ours, theirs = Core(case.core), Core(case.witness)
    pages = compare_memory(ours, theirs)
    cpus = compare_cpus(ours, theirs)
    demand(cpus == case.expected["cpus"], f"there are notes of {cpus} CPUs")
    compare_vmcoreinfo(ours, theirs)
    return f"{pages} pages and {cpus} CPUs are equal"


def compare_memory(ours, theirs):
    for name, one, other in (("QEMU's", theirs, ours), ("ours", ours, theirs)):
        for begin, end in only_in(one, other):
            is_firmware = any(low <= begin and end <= high for low, high in FIRMWARE)
            demand(is_firmware, f"only {name} has {begin:#x} to {end:#x}")
    equal, different = 0, []
    for begin, end in both(ours, theirs):
        for gpa in range(begin, end, CHUNK):
            size = min(CHUNK, end - gpa)
            one, other = (part(core, gpa, size) for core in (ours, theirs))
            if one == other:
                equal += size // PAGE
                continue
            for at in range(0, size, PAGE):
                if one[at : at + PAGE] == other[at : at + PAGE]:
                    equal += 1
                else:
                    different.append((gpa + at, one[at : at + PAGE], other[at : at + PAGE]))
    if different:
        shown = ", ".join(describe(*one) for one in different[:SHOWN])
        raise Failed(f"{len(different)} pages differ, {equal} are equal; the first: {shown}")
    return equal


def part(core, gpa, size):
    offset = core.offset_of(gpa)
    return core.data[offset : offset + size]


def describe(gpa, ours, theirs):
    at = next(at for at in range(PAGE) if ours[at] != theirs[at])
    kind = " (ours is zeros)" if not any(ours) else ""
    return f"{gpa + at:#x}: {ours[at : at + 8].hex()}, QEMU {theirs[at : at + 8].hex()}{kind}"


def ranges(core):
    return [(load.gpa, load.gpa + load.in_file) for load in core.loads if load.in_file]


def both(one, other):
    """Yields the ranges of addresses that are in one segment of each of them."""
    for low, high in ranges(one):
        for begin, end in ranges(other):
            if max(low, begin) < min(high, end):
                yield max(low, begin), min(high, end)


def only_in(one, other):
    """Yields the ranges of addresses that only the first has."""
    for low, high in ranges(one):
        for begin, end in ranges(other):
            if begin <= low < end:
                low = end
            elif low < begin < high:
                yield low, begin
                low = end
        if low < high:
            yield low, high


def compare_cpus(ours, theirs):
    status = [core.notes_named("CORE") for core in (ours, theirs)]
    states = [core.notes_named("QEMU") for core in (ours, theirs)]
    demand(len(status[0]) == len(status[1]) == len(states[0]),
           f"{len(status[0])} and {len(states[0])} notes of CPUs, QEMU has {len(status[1])}")
    for cpu, (one, other) in enumerate(zip(*status)):
        one, other = ours.content(one), theirs.content(other)
        (pid,) = struct.unpack_from("<I", one, PRSTATUS_PID)
        demand(pid == cpu + 1, f"note {cpu} is that of CPU {pid - 1}")
        at = next((at for at in range(0, PRSTATUS_SIZE, 8)
                   if one[at : at + 8] != other[at : at + 8]), None)
        demand(at is None, f"NT_PRSTATUS of CPU {cpu} differs from QEMU's at offset {at}")
    for cpu, (one, other) in enumerate(zip(*states)):
        one, other = fields(ours.content(one)), fields(theirs.content(other))
        name = next((name for name in one if one[name] != other[name]), None)
        if name:
            raise Failed(f"{name} of CPU {cpu} is {one[name]:#x}, QEMU has {other[name]:#x}")
    return len(status[0])


def fields(state):
    """Returns the fields of QEMU's note by their names, but its size: QEMU has added some."""
    general = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags".split()
    values = dict(zip(general, struct.unpack_from("<18Q", state, 8)))
    for number, name in enumerate("cs ds es fs gs ss ldt tr gdt idt".split()):
        selector, limit, flags, _, base = struct.unpack_from("<IIIIQ", state, 152 + 24 * number)
        values |= {f"{name}.selector": selector, f"{name}.limit": limit, f"{name}.base": base}
        values[f"{name}.flags"] = flags & FLAGS
    values |= zip("cr0 cr1 cr2 cr3 cr4".split(), struct.unpack_from("<5Q", state, 392))
    return values


def compare_vmcoreinfo(ours, theirs):
    demand(ours.vmcoreinfo(), "there is no VMCOREINFO")
    # QEMU has it only if the guest has a driver for that.
    if theirs.vmcoreinfo():
        demand(ours.vmcoreinfo() == theirs.vmcoreinfo(), "VMCOREINFO is not what QEMU has")
