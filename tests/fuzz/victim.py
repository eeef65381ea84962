"""Commands in forked processes, which have the libraries of this one, and what is left of them when they are killed."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from kdbench.machine.ending import die_with_parent
from tests.command import run_main
from tests.forking import reap
from tests.fuzz.at_replace import SITE, Watch, read_notes
from tests.fuzz.corpus import REPOSITORY
from tests.fuzz.kill_commands import Command

NOT_SHARED = ("ray",)
"""Packages that each command imports by itself: they start threads, which a forked process lacks."""
OURS = ("kdbench", "trainers", "exporters")
PR_SET_CHILD_SUBREAPER = 36
LIMIT_S = 600.0
"""Seconds that a command may take, on a machine that others use."""
GONE_S = 20.0
"""In which the children of a killed command are to end."""
LOOK_S = 0.002


def become_reaper() -> None:
    """From now on what a killed command leaves running is a child of this process, so that nothing hides."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def import_as(victim: Victim) -> None:
    """Import what a command that ended had imported, so that those forked from now on need not."""
    names = victim.modules.read_text().split()
    # Our own first: some of them make others importable.
    for name in sorted(names, key=lambda name: name.partition(".")[0] not in OURS):
        if name not in sys.modules and name.partition(".")[0] not in NOT_SHARED:
            with contextlib.suppress(Exception):  # names that a package made up, parts that need another one
                importlib.import_module(name)


class Victim:
    """One run of a command.

    Args:
        at: its folder; beside it are what it says, its notes, the names of the modules that it imported, and its TMPDIR.
        over: see ``Command.arguments``.
        number, when: of the replace at which it dies; 0 = it is left alone.
    """

    def __init__(self, command: Command, at: Path, over: bool, number: int = 0, when: str = "before") -> None:
        self.notes, self.said, self.modules = (at.parent / name for name in ("notes", "said", "modules"))
        self.notes.unlink(missing_ok=True)
        self._status: int | None = None
        self.started = time.monotonic()
        self._parent = os.getpid()
        self.process = os.fork()
        if self.process == 0:
            code = 70
            try:
                code = self._live(command, at, over, number, when)
            finally:
                os._exit(code)  # what this process would do at its end is the parent's

    def _live(self, command: Command, at: Path, over: bool, number: int, when: str) -> int:
        die_with_parent(self._parent)
        said = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(said, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(at)
        os.environ["TMPDIR"], tempfile.tempdir = str(at.parent / "tmp"), None
        watch = Watch(str(at), str(self.notes), os.getpid(), number, when)
        watch.start()
        if command.work is not None:
            watch.note_work(command.work)
        else:
            (at.parent / "site").mkdir(exist_ok=True)
            (at.parent / "site/sitecustomize.py").write_text(SITE)
            os.environ["PYTHONPATH"] = os.pathsep.join((str(at.parent / "site"), str(REPOSITORY)))
            watch.tell()
        code = run_main(command.arguments(at, over))
        self.modules.write_text("\n".join(sys.modules))
        return code

    def ended(self) -> bool:
        if self._status is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            self._status = status if process else None
        if self._status is None and time.monotonic() - self.started > LIMIT_S:
            self.kill()
            raise AssertionError(f"a command hung: {self.said.read_text()[-1000:]}")
        return self._status is not None

    def wait(self) -> None:
        while not self.ended():
            time.sleep(LOOK_S)

    def wait_for_work(self) -> bool:
        """Until its real work began; False where it ended before."""
        while not read_notes(self.notes):
            if self.ended():
                return bool(read_notes(self.notes))
            time.sleep(LOOK_S)
        return True

    def kill(self) -> None:
        if self._status is None:
            os.kill(self.process, signal.SIGKILL)
            _, self._status = os.waitpid(self.process, 0)

    @property
    def was_killed(self) -> bool:
        assert self._status is not None
        return os.WIFSIGNALED(self._status) and os.WTERMSIG(self._status) == signal.SIGKILL

    @property
    def code(self) -> int:
        assert self._status is not None
        return os.waitstatus_to_exitcode(self._status)


def children_left() -> tuple[list[str], float]:
    """Command lines of what still runs below this process ``GONE_S`` after a kill; seconds until all had ended.

    They are ended.
    """
    started, own = time.monotonic(), psutil.Process()
    while True:
        reap()
        alive = [child for child in own.children(recursive=True) if child.is_running()]
        if not alive or time.monotonic() - started > GONE_S:
            break
        time.sleep(0.02)
    found = []
    for child in alive:
        try:
            found.append(" ".join(child.cmdline())[:200] or child.name())
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=10)
    reap()
    return found, time.monotonic() - started
