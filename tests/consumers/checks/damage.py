# SPDX-License-Identifier: GPL-2.0
"""Harm that is done to a core file, and the programs that must notice it.

So each check is seen to fail. What a program does not need it cannot notice: drgn goes by the
numbers in the notes of CPUs and not by their order, crash by their order alone.
"""

import contextlib
import os
import struct
import subprocess
from collections import namedtuple

from .case import Case
from .core import PRSTATUS_PID, Core

# How much of each range is left, where much of it is not.
KEPT = 16 << 20

Damage = namedtuple("Damage", "name harm noticed_by")


def without_vmcoreinfo(core, _):
    for note in core.notes_named("VMCOREINFO"):
        # The name is before the content: 11 bytes, and one to fill up.
        core.data[note.offset - 12 : note.offset - 11] = b"X"


def swap(core, one, other, skip=0, size=None):
    """Swaps the contents of two notes, or a part of them."""
    size = size or one.size - skip
    places = [slice(note.offset + skip, note.offset + skip + size) for note in (one, other)]
    parts = [core.data[place] for place in places]
    core.data[places[0]], core.data[places[1]] = parts[1], parts[0]


def registers_of_another_cpu(core, case):
    """Swaps the registers of a CPU that is in the kernel with those of another."""
    one, other = two_cpus(case)
    after_pid = PRSTATUS_PID + 4
    swap(core, core.notes_named("CORE")[one], core.notes_named("CORE")[other], after_pid)
    swap(core, core.notes_named("QEMU")[one], core.notes_named("QEMU")[other])


def two_cpus(case):
    """Returns a CPU that is known to be in the kernel, and another."""
    one = next(task["cpu"] for task in case.expected["running"] if task["function"])
    return one, (one + 1) % case.expected["cpus"]


def notes_in_another_order(core, case):
    """Swaps whole notes: each has the right number, and not the right place."""
    one, other = two_cpus(case)
    for name in ("CORE", "QEMU"):
        notes = core.notes_named(name)
        swap(core, notes[one], notes[other])


def without_registers(core, _):
    """Makes registers of CPUs those of nobody, as if a CPU were not known."""
    for note in core.notes_named("CORE"):
        begin = note.offset + PRSTATUS_PID + 4
        core.data[begin : note.offset + note.size] = bytes(note.offset + note.size - begin)
    for note in core.notes_named("QEMU"):
        core.data[note.offset + 8 : note.offset + note.size] = bytes(note.size - 8)


def without_secret(core, case):
    """Makes the pages with the secret zeros, as if they were absent."""
    for gpa in core.places(case.secret):
        offset = core.offset_of(gpa // 4096 * 4096)
        core.data[offset : offset + 4096] = bytes(4096)


def largest(core):
    """Returns the largest range. That is RAM in the file for gdb, too."""
    return max(core.loads, key=lambda one: one.size)


def without_much_memory(core, _):
    """Makes all but the first 16 MiB of each large range zeros.

    The kernel begins above those of the first range, and its data lie above those of any.
    """
    for load in core.loads:
        if load.in_file > KEPT:
            begin, end = load.offset + KEPT, load.offset + load.in_file
            core.data[begin:end] = bytes(end - begin)


def memory_elsewhere(core, _):
    """Shifts the largest range by a page."""
    load = largest(core)
    struct.pack_into("<Q", core.data, load.at + 8, load.offset - 4096)


def shorter_in_file(core, _):
    """Says that the end of the largest range is not in the file."""
    load = largest(core)
    struct.pack_into("<Q", core.data, load.at + 32, load.in_file - (1 << 20))


def user_addresses_are_physical(core, _):
    """Puts guest-physical addresses in the place of virtual ones, as QEMU does."""
    for load in core.loads:
        struct.pack_into("<Q", core.data, load.at + 16, load.gpa)


ALL = [
    Damage("no VMCOREINFO", without_vmcoreinfo, ["pages", "drgn", "gdb", "makedumpfile"]),
    Damage("registers of another CPU", registers_of_another_cpu, ["pages", "drgn", "crash", "gdb"]),
    Damage("notes in another order", notes_in_another_order, ["pages", "crash"]),
    Damage("no registers", without_registers, ["pages", "drgn", "crash", "gdb"]),
    Damage("no secret", without_secret, ["pages", "drgn", "volatility", "leechcore", "yara"]),
    Damage("much memory absent", without_much_memory,
           ["pages", "drgn", "crash", "gdb", "makedumpfile", "volatility"]),
    Damage("memory a page off", memory_elsewhere,
           ["pages", "drgn", "crash", "makedumpfile", "volatility"]),
    Damage("p_filesz below p_memsz", shorter_in_file, ["pages", "volatility", "leechcore"]),
    Damage("p_vaddr as QEMU has it", user_addresses_are_physical, ["drgn"]),
]


@contextlib.contextmanager
def damaged(damage, options):
    """Has damaged copies of the core, and of the one for gdb, for a while."""
    case = Case(options)
    copies = []
    try:
        for name in (options.core, options.gdb_core):
            if not name:
                copies.append(None)
                continue
            copy = os.path.join(options.work, "damaged." + os.path.basename(name))
            copies.append(copy)
            subprocess.run(["cp", "--sparse=always", name, copy], check=True)
            core = Core(copy, writable=True)
            damage.harm(core, case)
            core.data.flush()
            core.data.close()
        yield copies
    finally:
        for copy in copies:
            if copy and os.path.exists(copy):
                os.unlink(copy)
