"""How many CPU cores this process may use, which is fewer than the machine has where somebody limited it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from kdbench.errors import BadInput
from kdbench.machine.control_groups import quota

ANSWER_THREADS = 4
"""Enough for passes whose answers alone matter: more threads wait for each other most of the time."""
MOST = 256
"""Threads that may be asked for, or one per core where there are more."""
MACHINE = "the machine"
ASKED = "KDBENCH_THREADS"
"""The variable by which processes know what --threads was."""
ANSWERS = "KDBENCH_ANSWERS"
"""The variable by which processes know that nobody times them."""


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
    allowed = quota()
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


@contextmanager
def answers_alone() -> Iterator[None]:
    """Within this nothing is timed, in this process and those that it starts.

    An engine is fastest when its threads wait for each other by running in circles, as long as nobody else computes.
    Beside a busy neighbour each wait lasts until the neighbour's turn is over, and two threads can take many times as
    long as one (``benchmarks/thread_settings.py``). Where answers alone matter threads sleep instead, if their engine
    can do so cheaply, or are as many as answer fastest now.
    """
    before = os.environ.get(ANSWERS)
    os.environ[ANSWERS] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(ANSWERS, None)
        else:
            os.environ[ANSWERS] = before


def need_answers_alone() -> bool:
    """Whether this process is within ``answers_alone``."""
    return ANSWERS in os.environ


def timed_environment() -> dict[str, str]:
    """The environment of a process that is timed, whose threads wait as their engine has it."""
    return {name: value for name, value in os.environ.items() if name != ANSWERS}


def is_asked() -> bool:
    """Whether a person gave --threads."""
    return ASKED in os.environ
