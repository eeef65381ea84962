"""Temporary folders beside what their files will replace; those of killed processes are removed by the next writer.

Whoever makes one holds the system's lock on it, which the system lets go of when the process ends, however it ends. So
a folder whose lock is free has no owner, also where containers share the place and process numbers mean nothing.
Windows locks no folder: there nothing is taken for left, but by who knows that nobody else is writing.
"""

from __future__ import annotations

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

if sys.platform != "win32":
    import fcntl

MARK = ".kdbench-"
"""Of their names, that nobody's own files are taken for one."""
BEFORE = "before"
"""Of a folder that is being replaced: what was there, as long as it is neither in its place nor replaced."""


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield an empty folder on the file system of ``path``, which is removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned_once(os.path.abspath(path.parent))
    made, handle = None, None
    try:
        while made is None:
            made = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}{MARK}"))
            handle = _lock(made, wait=True)
            if not made.is_dir():  # taken for a left one before it was locked
                _close(handle)
                made = None
        yield made
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        _close(handle)


@cache
def remove_abandoned_once(folder: str) -> None:
    """At a process's first file in a folder: some write thousands there."""
    remove_abandoned(Path(folder))


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders in ``folder`` whose owner is gone; those that cannot be removed are left."""
    for left in folder.glob(f".*{MARK}????????"):
        with suppress(OSError):
            if (handle := _lock(left, wait=False)) is not None:
                _remove(left)
                _close(handle)


def remove_leftovers(path: Path) -> None:
    """Remove what processes killed while writing ``path`` left; nobody may be writing it now."""
    for left in path.parent.glob(f".{glob.escape(path.name)}{MARK}????????"):
        _remove(left)
    # As earlier versions named them.
    for file in path.parent.glob(f".{glob.escape(path.stem)}-????????{glob.escape(path.suffix)}"):
        file.unlink(missing_ok=True)


def _remove(left: Path) -> None:
    """Remove a temporary folder; what it holds of the past and nobody has any more goes back to its place."""
    place = left.with_name(left.name[1:].rpartition(MARK)[0])
    if (left / BEFORE).exists() and not place.exists():
        with suppress(OSError):
            os.replace(left / BEFORE, place)
    shutil.rmtree(left, ignore_errors=True)


def _lock(folder: Path, wait: bool) -> int | None:
    """Hold a folder's lock: a handle; None where another process holds it, or the system has no such locks."""
    if sys.platform == "win32":
        return None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        return None
    return handle


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
