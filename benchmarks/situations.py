"""What limits or disturbs a process on a real machine: a neighbour that computes, a quota, an affinity.

Each is a context in which new processes are started: they inherit it, as those of a container or of ``taskset`` do.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.synchronize import Event
from pathlib import Path

from kdbench.machine.control_groups import CGROUPS, MEMBERSHIP, own_groups

PERIOD_US = 100_000


class NotHereError(Exception):
    """Why this machine, or this user, cannot be brought into a situation."""


def _compute(started: Event) -> None:
    import numpy as np

    started.set()
    a = np.random.default_rng(0).random((64, 64))
    while True:
        a = np.tanh(a @ a.T)


@contextmanager
def neighbour() -> Iterator[None]:
    """Beside one process that computes all the time, pinned to no core."""
    # Of one thread, whatever NumPy's library would take.
    before = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_compute, args=(started,), daemon=True)
    process.start()
    started.wait()
    if before is None:
        del os.environ["OPENBLAS_NUM_THREADS"]
    else:
        os.environ["OPENBLAS_NUM_THREADS"] = before
    try:
        yield
    finally:
        process.kill()
        process.join()


@contextmanager
def one_core() -> Iterator[None]:
    """Bound to one core, as by ``taskset -c``."""
    if not hasattr(os, "sched_setaffinity"):
        raise NotHereError("this system has no affinity that a process can set")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def quota_of_one_core() -> Iterator[None]:
    """In a control group with the time of one core, as in ``docker run --cpus 1``."""
    resource_tracker.ensure_running()  # multiprocessing's, which outlives what it is started in
    group, own = _make_group()
    try:
        _join(group)
        try:
            yield
        finally:
            _join(own)
    finally:
        group.rmdir()


def _make_group() -> tuple[Path, Path]:
    """A new group with the quota, and the one that this process is in now.

    Raises:
        NotHereError: no hierarchy has the controller, or nobody may write there.
    """
    name = f"kdbench-{os.getpid()}"
    own = [group for group in own_groups(CGROUPS, MEMBERSHIP) if (group / "cgroup.procs").exists()]
    reasons = list[str]()
    for now in own:
        # In version 2 a group that has groups below it may hold no process: the new one is beside this, not below.
        above = now if (now / "cpu.shares").exists() or now == CGROUPS else now.parent
        group = above / name
        try:
            group.mkdir()
        except OSError as error:
            reasons.append(str(error))
            continue
        try:
            if (group / "cpu.max").exists():
                (group / "cpu.max").write_text(f"{PERIOD_US} {PERIOD_US}")
                return group, now
            if (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(PERIOD_US))
                return group, now
            reasons.append(f"'{above}' does not let its groups limit the processor")
        except OSError as error:
            reasons.append(str(error))
        group.rmdir()
    raise NotHereError(reasons[0] if reasons else "no control group is mounted here")


def _join(group: Path) -> None:
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        raise NotHereError(str(error)) from error
