"""Folders for files that nobody keeps; one that a killed command left is removed by the next command.

Whoever makes a folder holds a lock in it, which the system lets go of when the process ends, however it ends. So a
folder whose lock is free has no owner, also where several containers share one TMPDIR and process numbers mean nothing.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "kdbench-"
OWNER = ".owner"
YOUNG_S = 30.0
"""Seconds in which a folder may be without its lock: it is being made."""


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """As ``tempfile.TemporaryDirectory``, in TMPDIR, with its owner's lock.

    Args:
        purpose: a word of its name.
    """

    def __init__(self, purpose: str) -> None:
        remove_abandoned_once(tempfile.gettempdir())
        super().__init__(prefix=f"{PREFIX}{purpose}-")
        self._lock = FileLock(Path(self.name) / OWNER)
        self._lock.acquire()

    def cleanup(self) -> None:
        self._lock.release()
        super().cleanup()


@cache
def remove_abandoned_once(place: str) -> None:
    """At a process's first folder in TMPDIR: a search of many layers makes one for each.

    Args:
        place: TMPDIR, which may change within a process.
    """
    remove_abandoned()


def remove_abandoned() -> None:
    """Remove the folders whose owner is gone; those that cannot be removed are left to who can."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = folder / OWNER
        try:
            if not owner.is_file() or time.time() - folder.stat().st_mtime < YOUNG_S:
                continue  # of another program, or being made
            with FileLock(owner).acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, Timeout):
            continue
