# SPDX-License-Identifier: GPL-2.0
"""Reads ELF core files, knowing nothing of what writes them."""

import mmap
import struct

PT_LOAD, PT_NOTE = 1, 4
PAGE = 4096
# Of `struct elf_prstatus` (include/linux/elfcore.h).
PRSTATUS_PID, PRSTATUS_REGISTERS, PRSTATUS_SIZE = 32, 112, 336


class Segment:
    """A program header, and where it is in the file."""

    def __init__(self, data, at):
        self.at = at
        (self.kind, _, self.offset, self.gva, self.gpa, self.in_file, self.size, _) = (
            struct.unpack_from("<IIQQQQQQ", data, at))


class Note:
    """A note, and where its content is in the file."""

    def __init__(self, name, kind, offset, size):
        self.name, self.kind, self.offset, self.size = name, kind, offset, size


class Core:
    """A core file of a guest. If it is writable, changes go to the file."""

    def __init__(self, path, writable=False):
        with open(path, "r+b" if writable else "rb") as file:
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self.data = mmap.mmap(file.fileno(), 0, access=access)
        (table,) = struct.unpack_from("<Q", self.data, 32)
        size, count = struct.unpack_from("<HH", self.data, 54)
        headers = [Segment(self.data, table + size * number) for number in range(count)]
        self.loads = sorted(
            (header for header in headers if header.kind == PT_LOAD), key=lambda one: one.gpa)
        self.notes = []
        for header in headers:
            if header.kind == PT_NOTE:
                self.notes += self.read_notes(header)

    def read_notes(self, header):
        notes, at, end = [], header.offset, header.offset + header.in_file
        while at + 12 <= end:
            name_size, size, kind = struct.unpack_from("<III", self.data, at)
            content = at + 12 + (name_size + 3) // 4 * 4
            name = self.data[at + 12 : at + 12 + name_size].rstrip(b"\0").decode()
            notes.append(Note(name, kind, content, size))
            at = content + (size + 3) // 4 * 4
        return notes

    def content(self, note):
        return self.data[note.offset : note.offset + note.size]

    def notes_named(self, name):
        return [note for note in self.notes if note.name == name]

    def vmcoreinfo(self):
        """Returns the keys and values of VMCOREINFO, if it is there."""
        text = b"".join(self.content(note) for note in self.notes_named("VMCOREINFO"))
        lines = text.decode().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def offset_of(self, gpa):
        for load in self.loads:
            if load.gpa <= gpa < load.gpa + load.in_file:
                return load.offset + gpa - load.gpa
        return None

    def places(self, wanted):
        """Returns the guest-physical addresses where these bytes are."""
        found = []
        for load in self.loads:
            at = self.data.find(wanted, load.offset, load.offset + load.in_file)
            while at >= 0:
                found.append(load.gpa + at - load.offset)
                at = self.data.find(wanted, at + 1, load.offset + load.in_file)
        return found
