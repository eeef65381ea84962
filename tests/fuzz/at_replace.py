"""Within a command that is to be killed: notes of its atomic replaces and of the start of real work, and its death.

Notes are lines of a file that all processes of the command share: the replaces of a sweep are its workers'. Workers
that were not forked come here by a ``sitecustomize`` module on PYTHONPATH.
"""

from __future__ import annotations

import fcntl
import functools
import importlib
import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TOLD = "KDBENCH_TESTS_KILL"
"""Environment variable of tests alone."""
SITE = "from tests.fuzz.at_replace import watch_as_told\n\nwatch_as_told()\n"
"""Of ``sitecustomize.py``."""


@dataclass(frozen=True)
class Watch:
    """What is noted, and when the command dies.

    Attributes:
        root: replaces below it count.
        notes: the file; a line "work" or "replace PATH" for each.
        victim: process number of the command.
        at: number of the replace at which it dies, from 1; 0 = it lives.
        when: "before" or "after" that replace.
    """

    root: str
    notes: str
    victim: int
    at: int = 0
    when: str = "before"

    def note(self, line: str) -> int:
        """Write a line down; how many replaces there were then."""
        with open(self.notes, "a+", encoding="utf-8", errors="surrogateescape") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(line + "\n")
            file.flush()
            file.seek(0)
            return sum(known.startswith("replace ") for known in file)

    def die(self) -> None:
        for process in dict.fromkeys((self.victim, os.getpid())):
            os.kill(process, signal.SIGKILL)

    def start(self) -> None:
        """From now on this process's replaces are noted."""
        replace = os.replace

        @functools.wraps(replace)
        def noted(source: Any, target: Any, **options: Any) -> None:
            path = os.path.abspath(os.fspath(target))
            below = path.startswith(self.root + os.sep)
            dies = below and self.note(f"replace {os.path.relpath(path, self.root)}") == self.at
            if dies and self.when == "before":
                self.die()
            replace(source, target, **options)
            if dies:
                self.die()

        os.replace = noted

    def note_work(self, name: str) -> None:
        """Note the first call of a function, "module:name" or "module:Class.name": real work begins there."""
        module, _, path = name.partition(":")
        *outer, last = path.split(".")
        holder = functools.reduce(getattr, outer, importlib.import_module(module))
        work = getattr(holder, last)

        @functools.wraps(work)
        def noted(*arguments: Any, **options: Any) -> Any:
            setattr(holder, last, work)
            self.note("work")
            return work(*arguments, **options)

        setattr(holder, last, noted)

    def tell(self) -> None:
        """For the processes that this one starts."""
        os.environ[TOLD] = json.dumps(asdict(self))


def watch_as_told() -> None:
    if told := os.environ.get(TOLD):
        Watch(**json.loads(told)).start()


def read_notes(notes: Path) -> list[str]:
    return notes.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if notes.exists() else []
