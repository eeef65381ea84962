"""How many CPU cores this process may use, which is fewer than the machine has where somebody limited it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kdbench.errors import BadInput

ANSWER_THREADS = 4
"""Enough for passes whose answers alone matter: more threads wait for each other most of the time."""
MOST = 256
"""Threads that may be asked for, or one per core where there are more."""
MACHINE = "the machine"
ASKED = "KDBENCH_THREADS"
"""The variable by which processes know what --threads was."""
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


class Cores(NamedTuple):
    """How many, and what says so."""

    number: int
    source: str

    def told(self) -> str:
        """ "2 cores", and what says so where it is not the machine itself."""
        count = f"{self.number} core{'s' * (self.number > 1)}"
        return count if self.source == MACHINE else f"{count} by {self.source}"


def cores() -> Cores:
    """The fewest that anything allows: the machine, this process's affinity, its control group, OMP_NUM_THREADS.

    What a person asked for by --threads stands above all of them.
    """
    if asked := _whole(os.environ.get(ASKED)):
        return Cores(asked, "--threads")
    limits = [Cores(os.cpu_count() or 1, MACHINE)]
    if hasattr(os, "sched_getaffinity"):  # on Linux
        limits.append(Cores(len(os.sched_getaffinity(0)), "the affinity of this process"))
    allowed = quota(CGROUPS, MEMBERSHIP)
    # A quota of 2.5 cores bears 2 threads that always run: a third would stop all of them for part of the time.
    limits.append(Cores(max(1, math.floor(allowed)), f"the control group's quota of {allowed:g}"))
    if openmp := _whole(os.environ.get("OMP_NUM_THREADS")):
        limits.append(Cores(openmp, "OMP_NUM_THREADS"))
    return min(limits, key=lambda limit: limit.number)


def usable_cores() -> int:
    """As ``cores`` counts them; at least 1."""
    return cores().number


@contextmanager
def asked_threads(count: int) -> Iterator[None]:
    """Within this, ``cores`` is what a person asked for, in this process and those that it starts; 0 = did not ask.

    Raises:
        BadInput: more than engines bear.
    """
    require_bearable(count)
    before = os.environ.get(ASKED)
    if count:
        os.environ[ASKED] = str(count)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(ASKED, None)
        else:
            os.environ[ASKED] = before


def require_bearable(count: int) -> None:
    """Raise BadInput where engines would crash on so many threads instead of refusing them."""
    most = max(MOST, os.cpu_count() or 1)
    if count > most:
        raise BadInput(f"--threads: got {count}, expected at most {most}: leave it out for one per core")


def _whole(text: str | None) -> int | None:
    """A positive whole number; None of anything else, as "4,2" for nested regions."""
    return int(text) if text and text.isascii() and text.isdigit() and int(text) > 0 else None


def answer_threads() -> int:
    """Threads for a pass that is not timed, beside which another engine may run in the same process."""
    return min(ANSWER_THREADS, usable_cores())


def quota(cgroups: Path, membership: Path) -> float:
    """Cores' worth of time that the tightest ``cpu.max`` allows (cgroup v2); ``os.cpu_count()`` without a limit.

    Args:
        cgroups: where the hierarchy is mounted.
        membership: the file whose line "0::/a/b" names the process's group; those above it limit it as well.
    """
    allowed = float(os.cpu_count() or 1)
    for folder in _groups(cgroups, membership):
        try:
            limit, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        except (OSError, ValueError):  # the topmost group has no such file
            limit, period = "max", "0"
        if limit != "max":
            allowed = min(allowed, int(limit) / int(period))
    return allowed


def _groups(cgroups: Path, membership: Path) -> list[Path]:
    """The process's group and those above it; none without cgroups of version 2."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    name = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    group = cgroups / name
    above = (group, *group.parents)
    return list(above[: above.index(cgroups) + 1]) if cgroups in above else []


class ThrottleMeter:
    """Share of the time since it was made for which this process's control group was stopped by its quota."""

    def __init__(self) -> None:
        self._started, self._before = time.monotonic(), throttled_seconds(CGROUPS, MEMBERSHIP)

    def share(self) -> float:
        """0 to 1; 0 where there is no quota."""
        passed = time.monotonic() - self._started
        return round((throttled_seconds(CGROUPS, MEMBERSHIP) - self._before) / passed, 4) if passed > 0 else 0.0


def throttled_seconds(cgroups: Path, membership: Path) -> float:
    """The most that any of the process's control groups was stopped so far (``throttled_usec`` of ``cpu.stat``)."""
    most = 0
    for folder in _groups(cgroups, membership):
        try:
            lines = (folder / "cpu.stat").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        fields = dict(line.split() for line in lines if len(line.split()) == 2)
        most = max(most, _whole(fields.get("throttled_usec")) or 0)
    return most / 1e6
