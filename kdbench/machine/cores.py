"""How many CPU cores this process may use, which is fewer than the machine has where somebody limited it."""

from __future__ import annotations

import math
import os
from pathlib import Path

ANSWER_THREADS = 4
"""Enough for passes whose answers alone matter: more threads wait for each other most of the time."""
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores by the process's CPU affinity and by the quota of its control group (containers have one); at least 1."""
    bound = hasattr(os, "sched_getaffinity")  # on Linux
    count = len(os.sched_getaffinity(0)) if bound else os.cpu_count() or 1
    # A quota of 2.5 cores bears 2 threads that always run: a third would stop all of them for part of the time.
    return max(1, min(count, math.floor(quota(CGROUPS, MEMBERSHIP))))


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
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return allowed
    name = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    group = cgroups / name
    for folder in (group, *group.parents):
        try:
            limit, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        except (OSError, ValueError):  # the topmost group has no such file
            limit, period = "max", "0"
        if limit != "max":
            allowed = min(allowed, int(limit) / int(period))
        if folder == cgroups:
            break
    return allowed
