"""What Linux's control groups let this process have of the processors, and how long they stopped it.

A container's limit (``docker run --cpus 2``) is such a group's quota: a time that its processes may run in each period.
Version 2 has one hierarchy; version 1, of older systems, has one for each controller; hybrid systems have both.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def quota(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """Cores' worth of time that the tightest quota allows; ``os.cpu_count()`` without one.

    Args:
        cgroups: where the hierarchies are mounted.
        membership: the file that names the process's group; those above it limit it as well.
    """
    limits = [_limit(folder) for folder in own_groups(cgroups, membership)]
    return min([float(os.cpu_count() or 1), *(limit for limit in limits if limit is not None)])


def _limit(group: Path) -> float | None:
    """Cores' worth of time; None without a quota, and of the topmost group, which has no such file."""
    files = ("cpu.max",) if (group / "cpu.max").exists() else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    told = [word for name in files for word in _read(group / name).split()]
    if len(told) != 2 or not all(word.isdecimal() for word in told):  # "max 100000" of version 2, "-1" of version 1
        return None
    allowed, period = map(int, told)
    return allowed / period if allowed and period else None


def own_groups(cgroups: Path, membership: Path) -> list[Path]:
    """The process's group and those above it, of either version; none without control groups."""
    found: list[Path] = []
    mounts: tuple[Path, ...]
    for line in _read(membership).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            mounts = (cgroups, cgroups / "unified")
        elif "cpu" in controllers.split(","):
            mounts = tuple(cgroups / folder for folder in dict.fromkeys(("cpu", controllers)))
        else:
            continue
        for mount in mounts:
            # Inside a container the name may be the host's, which leads nowhere: then the mount is the group itself.
            group = mount / name.strip("/")
            above = (group, *group.parents)
            found += above[: above.index(mount) + 1]
    return found


def _read(file: Path) -> str:
    """A file's text; nothing of one that cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


class ThrottleMeter:
    """Share of the time since it was made for which this process's control group was stopped by its quota."""

    def __init__(self) -> None:
        self._started, self._before = time.monotonic(), throttled_seconds(CGROUPS, MEMBERSHIP)

    def share(self) -> float:
        """0 to 1; 0 where there is no quota."""
        passed = time.monotonic() - self._started
        now = throttled_seconds(CGROUPS, MEMBERSHIP)
        most = max((seconds - self._before.get(group, 0.0) for group, seconds in now.items()), default=0.0)
        # The kernel adds up what its processors were stopped for, so that two can be stopped for twice the time.
        return round(min(most / passed, 1.0), 4) if passed > 0 else 0.0


def throttled_seconds(cgroups: Path, membership: Path) -> dict[Path, float]:
    """For how long each of the process's control groups was stopped so far, as their ``cpu.stat`` says."""
    found = {}
    for group in own_groups(cgroups, membership):
        fields = dict(line.split() for line in _read(group / "cpu.stat").splitlines() if len(line.split()) == 2)
        for field, unit in (("throttled_usec", 1e-6), ("throttled_time", 1e-9)):  # versions 2 and 1
            if (told := fields.get(field, "")).isdecimal():
                found[group] = int(told) * unit
    return found
