"""Quotas of control groups and how long they stopped a process, by value, in made folders and in a real group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.machine import control_groups
from kdbench.machine.control_groups import quota, throttled_seconds

V1 = "9:name=systemd:/x\n3:cpu,cpuacct:/a/b\n2:cpuset:/\n"
SPIN = """
import sys, time
from pathlib import Path
from kdbench.machine.control_groups import ThrottleMeter
from kdbench.machine.cores import cores

found = cores()
# So little that it is used up on a machine that others use as well.
(Path(sys.argv[1]) / "cpu.cfs_quota_us").write_text("2000")
meter, until = ThrottleMeter(), time.monotonic() + 1
while time.monotonic() < until:
    sum(range(1000))
print(*found, meter.share(), sep="|")
"""


def write_groups(root, limits):
    """{"a/b": "200000 100000"} → the files of a hierarchy, as version 1 has them below cpu and cpu,cpuacct."""
    for name, limit in limits.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        if name.startswith("cpu"):
            for file, value in zip(("cpu.cfs_quota_us", "cpu.cfs_period_us"), limit.split(), strict=True):
                (folder / file).write_text(f"{value}\n")
        else:
            (folder / "cpu.max").write_text(f"{limit}\n")


@pytest.mark.parametrize(
    ("limits", "member", "expected"),
    [
        ({}, "0::/\n", 16),
        ({"": "250000 100000"}, "0::/\n", 2.5),  # what a container sees as its topmost group
        ({"a/b": "max 100000"}, "0::/a/b\n", 16),
        ({"a": "300000 100000", "a/b": "max 100000"}, "0::/a/b\n", 3),
        ({"a": "300000 100000", "a/b": "50000 100000"}, "0::/a/b\n", 0.5),
        ({"a": "100000 100000", "c": "max 100000"}, "0::/c\n", 16),  # another's limit
        ({"a": "100000 100000"}, "4:cpu:/a\n", 16),  # version 1, which has its mounts below cpu
        ({"a": "100000 100000"}, "1:name=x:/z\n0::/a\n", 1),
        ({"": "rubbish"}, "0::/\n", 16),
        ({"": "x 100000"}, "0::/\n", 16),
        ({"": "100000 0"}, "0::/\n", 16),
        ({"": "200000 100000"}, "0::/docker/f00\n", 2),  # the host's name of a container's group, unknown inside
        ({"": "200000 100000"}, "0::/../../other\n", 2),  # a group outside of what the container was given
        ({"a": "100000 100000"}, "", 16),
    ],
)
def test_quota_of_version_2_by_value(tmp_path, monkeypatch, limits, member, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    (tmp_path / "self").write_text(member)
    write_groups(tmp_path / "groups", limits)
    assert quota(tmp_path / "groups", tmp_path / "self") == expected


@pytest.mark.parametrize(
    ("limits", "member", "expected"),
    [
        ({"cpu": "-1 100000"}, "1:cpu:/\n", 16),
        ({"cpu/a": "150000 100000"}, "1:cpu:/a\n", 1.5),
        ({"cpu/a": "30000 20000"}, "1:cpu:/a\n0::/\n", 1.5),
        ({"cpu/a": "300000 100000", "cpu/a/b": "-1 100000"}, V1, 3),
        ({"cpu,cpuacct/a": "300000 100000", "cpu,cpuacct/a/b": "50000 100000"}, V1, 0.5),
        ({"cpuacct,cpu/a": "200000 100000"}, "4:cpuacct,cpu:/a\n", 2),
        ({"cpu/c": "100000 100000"}, V1, 16),  # another's limit
        ({"cpuset/a": "100000 100000"}, "2:cpuset:/a\n1:cpuacct:/a\n", 16),  # other controllers
        ({"cpu": "200000 100000"}, "3:cpu,cpuacct:/docker/f00\n", 2),  # inside a container the mount is the group
        ({"unified/a": "100000 100000", "cpu": "-1 100000"}, "1:cpu:/\n0::/a\n", 1),  # hybrid
        ({"unified": "max 100000", "cpu/a": "100000 100000"}, "1:cpu:/a\n0::/\n", 1),
        ({"cpu": "0 100000"}, "1:cpu:/\n", 16),
    ],
)
def test_quota_of_version_1_by_value(tmp_path, monkeypatch, limits, member, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    (tmp_path / "self").write_text(member)
    write_groups(tmp_path / "groups", limits)
    assert quota(tmp_path / "groups", tmp_path / "self") == expected


def test_quota_without_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert quota(tmp_path, tmp_path / "nothing") == 6


@pytest.mark.parametrize(
    ("member", "folder", "before", "after", "share"),
    [
        ("0::/a/b\n", "a", "usage_usec 5\nthrottled_usec 1500000\n", "throttled_usec 2500000\n", 0.25),
        ("2:cpu:/a/b\n", "cpu/a", "nr_throttled 7\nthrottled_time 500000000\n", "throttled_time 2500000000\n", 0.5),
        ("0::/a\n", "a", "throttled_usec 0\n", "throttled_usec 7000000\n", 1.0),  # two processors were stopped
        ("0::/a\n", "a", "usage_usec 5\n", "usage_usec 9\n", 0.0),
    ],
)
def test_a_quota_that_stops_the_process_is_measured(tmp_path, monkeypatch, member, folder, before, after, share):
    groups, belongs = tmp_path / "groups", tmp_path / "self"
    belongs.write_text(member)
    (groups / folder / "b").mkdir(parents=True)
    stat = groups / folder / "cpu.stat"
    stat.write_text(before)
    assert throttled_seconds(groups, tmp_path / "nothing") == {}
    clock = iter([100.0, 104.0])
    monkeypatch.setattr(control_groups, "CGROUPS", groups)
    monkeypatch.setattr(control_groups, "MEMBERSHIP", belongs)
    monkeypatch.setattr(control_groups.time, "monotonic", lambda: next(clock))
    meter = control_groups.ThrottleMeter()
    stat.write_text(after)
    assert meter.share() == share


def test_a_group_above_that_was_stopped_long_ago_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "self").write_text("0::/a\n")
    (tmp_path / "groups" / "a").mkdir(parents=True)
    (tmp_path / "groups" / "cpu.stat").write_text("throttled_usec 90000000\n")
    own = tmp_path / "groups" / "a" / "cpu.stat"
    own.write_text("throttled_usec 0\n")
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(control_groups, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(control_groups, "MEMBERSHIP", tmp_path / "self")
    monkeypatch.setattr(control_groups.time, "monotonic", lambda: next(clock))
    meter = control_groups.ThrottleMeter()
    own.write_text("throttled_usec 1000000\n")
    assert meter.share() == 0.5


@pytest.fixture
def half_a_core():
    """A group of version 1 with a quota of half a core, where this machine lets us make one."""
    group = Path("/sys/fs/cgroup/cpu") / f"kdbench-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (group / "cpu.cfs_quota_us").write_text("50000")
        yield group
    finally:
        group.rmdir()


def test_a_real_group_of_version_1(half_a_core, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def join():
        (half_a_core / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, "-c", SPIN, str(half_a_core)]
    done = subprocess.run(command, preexec_fn=join, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    number, source, share = done.stdout.strip().split("|")
    assert (number, source) == ("1", "the control group's quota of 0.5")
    assert 0.1 < float(share) <= 1
