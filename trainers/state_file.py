"""``state.pt``: what a resume goes on from, with a hash by which a flipped bit is found.

The file is a zip archive, as torch writes it, and the hash is the archive's comment, which readers of zip files skip:
``torch.load`` opens it as ever. Files of before have no comment, and are read without a check.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import struct
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import BadInput
from kdbench.runs.files import WEIGHTS, atomic_path, require_regular

MARK = b"kdbench sha256 "
COMMENT = len(MARK) + 64
"""Bytes of the comment: the mark and the hash of all bytes before it, as hexadecimal digits."""
_END = b"PK\x05\x06"
_END_SIZE = 22
"""Of a zip archive's last record, whose last two bytes are the comment's length."""


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Replace a state file.

    Raises:
        RunFailed: the disk is full, or the place cannot be written.
    """
    buffer = io.BytesIO()  # on a full disk torch.save raises an error that looks like any other
    torch.save(state, buffer)
    with buffer.getbuffer() as archive:
        assert bytes(archive[-_END_SIZE:][:4]) == _END, "torch.save wrote no zip archive"
        struct.pack_into("<H", archive, len(archive) - 2, COMMENT)
        digest = hashlib.sha256(archive).hexdigest()
    buffer.seek(0, io.SEEK_END)
    buffer.write(MARK + digest.encode())
    with atomic_path(path) as temporary:
        # A copy: Python 3.12.1 crashes when it collects a failed write that holds a view of the buffer.
        temporary.write_bytes(buffer.getvalue())


def read_state(path: Path, otherwise: str) -> dict[str, Any]:
    """Read a state file; what torch raises of a broken one of before is passed on.

    Args:
        otherwise: how to go on without it.

    Raises:
        BadInput: it is no regular file, or not what was written.
    """
    require_regular(path, otherwise, WEIGHTS)
    _verify(path, otherwise)
    found: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return found


def _verify(path: Path, otherwise: str) -> None:
    if path.stat().st_size < _END_SIZE + COMMENT:
        return  # no state that anything can be read of, as torch says in its own words
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end, comment = data[-_END_SIZE:], data[-COMMENT:]
        if end.startswith(_END) and end.endswith(b"\0\0"):
            return  # of before
        with memoryview(data) as view, view[:-COMMENT] as archive:
            sound = comment == MARK + hashlib.sha256(archive).hexdigest().encode()
    if not sound:
        raise BadInput(f"'{path}' was damaged since it was written (its hash does not fit): {otherwise}")
