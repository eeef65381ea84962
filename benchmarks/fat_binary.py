"""CUDA fat binaries: machine code for many cards in one library, made small for one of them.

    left = keep_capability(library, (9, 0))      # a bytearray with a whole ELF file, changed in place

A library that is built with ``nvcc`` keeps its kernels in containers, one after another in the ELF section
``.nv_fatbin``; a container has one entry per compute capability. The driver chooses an entry by its header. So the
payloads that the card never gets to run can be overwritten with zeros, which compress to nothing, while every offset
and every header stays what it was: only the size of the compressed library changes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SECTION = b".nv_fatbin"
MAGIC = 0xBA55ED50
PTX, ELF = 1, 2
_CONTAINER = struct.Struct("<IHHQ")
"""Magic, version, bytes of this header, bytes of the entries that follow."""
_ENTRY = struct.Struct("<HHIQ12xI")
"""Kind, version, bytes of this header, bytes of the payload; at 28 the compute capability as 10 x major + minor."""


@dataclass(frozen=True)
class Entry:
    """One kernel module for one card; its payload is ``library[start : start + size]``."""

    kind: int
    capability: tuple[int, int]
    start: int
    size: int


def containers(library: bytes | bytearray) -> Iterator[list[Entry]]:
    """The entries of each container, in the file's order; nothing for a library without GPU code.

    Raises:
        ValueError: a container or an entry does not end where the next begins.
    """
    position, end = _section(library)
    while position < end:
        if not any(library[position : position + 8]):
            position += 8  # padding between object files
            continue
        magic, _, header, size = _CONTAINER.unpack_from(library, position)
        if magic != MAGIC:
            raise ValueError(f"no fat binary at byte {position}: got {magic:#x}, expected {MAGIC:#x}")
        last = position + header + size
        if last > end:
            raise ValueError(f"the fat binary at byte {position} ends {last - end} bytes after its section")
        yield list(_entries(library, position + header, last))
        position = last


def keep_capability(library: bytearray, capability: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Overwrite with zeros what a card of ``capability`` never runs; return (entries, bytes) "kept" and "blanked".

    Kept are a container's machine code for this very capability, and where there is none its PTX, which the driver
    compiles, and the machine code for the nearest lower capability of the same major version, which the card runs too.
    """
    count = {"kept": [0, 0], "blanked": [0, 0]}
    for entries in containers(library):
        kept = _runnable(entries, capability)
        for entry in entries:
            what = count["kept" if entry in kept else "blanked"]
            what[0] += 1
            what[1] += entry.size
            if entry not in kept:
                library[entry.start : entry.start + entry.size] = bytes(entry.size)
    return {what: (entries, size) for what, (entries, size) in count.items()}


def _runnable(entries: list[Entry], capability: tuple[int, int]) -> list[Entry]:
    exact = [entry for entry in entries if (entry.kind, entry.capability) == (ELF, capability)]
    if exact:
        return exact
    lower = [
        entry.capability
        for entry in entries
        if entry.kind == ELF and entry.capability[0] == capability[0] and entry.capability < capability
    ]
    nearest = max(lower, default=None)
    return [entry for entry in entries if entry.kind != ELF or entry.capability == nearest]


def _entries(library: bytes | bytearray, position: int, last: int) -> Iterator[Entry]:
    while position < last:
        kind, _, header, size, capability = _ENTRY.unpack_from(library, position)
        if header < _ENTRY.size or position + header + size > last:
            raise ValueError(f"the entry at byte {position} does not fit into its fat binary, which ends at {last}")
        yield Entry(kind, divmod(capability, 10), position + header, size)
        position += header + size


def _section(library: bytes | bytearray) -> tuple[int, int]:
    """First byte of the section with the fat binaries and the byte after its last; (0, 0) without one."""
    if library[:6] != b"\x7fELF\x02\x01":
        raise ValueError("expected a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", library, 0x28)
    size, count, names = struct.unpack_from("<HHH", library, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", library, table + size * index) for index in range(count)]
    for name, _, _, _, offset, length in headers:
        start = headers[names][4] + name
        if library[start : start + len(SECTION) + 1] == SECTION + b"\0":
            return offset, offset + length
    return 0, 0
