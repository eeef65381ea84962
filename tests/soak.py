"""Soak: train, export, compare, regress and report in one process, again and again; does anything of it grow?

``python -m tests.soak --minutes 30 --json results/soak.json``
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# One thread in every library, before any of them is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import psutil
from scipy.stats import t as student_t

from kdbench.errors import one_line
from kdbench.machine.environment import environment
from kdbench.runs.files import SCHEMA_VERSION, write_json
from tests.command import run_main
from tests.fuzz.kill_commands import COMMANDS, make_inputs

LOOP = ("train", "export", "compare", "regress", "report")
WARM_UP = 3
"""Loops before the first that counts: libraries are imported and fill their caches."""
ENOUGH = 3
"""Loops that a slope needs at least."""

MUST_NOT_GROW = ("descriptors", "threads", "tmp_files", "children")
"""Memory and objects are looked at: libraries keep what they compiled."""


@dataclass(frozen=True)
class Reading:
    """Of this process, after a loop.

    Attributes:
        memory_mib: resident.
        descriptors: open ones.
        objects: that Python's collector knows, after it ran.
        tmp_files: files and folders in TMPDIR.
        children: processes below this one.
    """

    memory_mib: float
    descriptors: int
    threads: int
    objects: int
    tmp_files: int
    children: int


def read(tmp: Path) -> Reading:
    gc.collect()
    own = psutil.Process()
    return Reading(
        memory_mib=round(own.memory_info().rss / 2**20, 2),
        descriptors=own.num_fds() if os.name == "posix" else own.num_handles(),
        threads=own.num_threads(),
        objects=len(gc.get_objects()),
        tmp_files=sum(1 for _ in tmp.rglob("*")),
        children=len(own.children(recursive=True)),
    )


def trend(values: list[float]) -> dict[str, Any]:
    """First and last, and the slope per loop by least squares with its 95% interval (Student's t).

    ``grows``: the whole interval lies above 0.
    """
    found: dict[str, Any] = {"first": values[0], "last": values[-1], "most": max(values)}
    if len(values) < ENOUGH:
        return found
    loops = np.arange(len(values)) - (len(values) - 1) / 2
    spread = float(loops @ loops)
    slope = float(loops @ np.array(values)) / spread
    left = np.array(values) - np.mean(values) - slope * loops
    half = float(student_t.ppf(0.975, len(values) - 2) * np.sqrt(left @ left / (len(values) - 2) / spread))
    interval = [round(slope - half, 5), round(slope + half, 5)]
    return {**found, "per_loop": round(slope, 5), "per_loop_ci95": interval, "grows": interval[0] > 0}


def one_loop(place: Path) -> list[str]:
    """All commands once; which failed, and what each said."""
    failed = []
    for name in LOOP:
        command = COMMANDS[name]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = run_main(command.arguments(place, over=True))
        if code not in command.codes:
            failed.append(f"{name} ended with {code}: {one_line(said.getvalue()[-500:], 500)}")
    return failed


def summary(readings: list[Reading]) -> dict[str, Any]:
    """The trend of each reading after the warm-up."""
    counted = [asdict(reading) for reading in readings[min(WARM_UP, len(readings) - 1) :]]
    return {key: trend([entry[key] for entry in counted]) for key in counted[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--loops", type=int, default=10**6, help="at most")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    started, readings, failed = time.monotonic(), [], []
    about = {**environment(), "command": f"python -m tests.soak --minutes {asked.minutes:g}"}
    with tempfile.TemporaryDirectory(prefix="kd-soak-") as folder:
        place, tmp = Path(folder), Path(folder) / "tmp"
        tmp.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(tmp)
        make_inputs(place)
        while len(readings) < asked.loops and time.monotonic() - started < 60 * asked.minutes:
            failed += one_loop(place)
            readings.append(read(tmp))
            print(f"loop {len(readings)}: {readings[-1]}", file=sys.stderr, flush=True)
        tempfile.tempdir = None
        del os.environ["TMPDIR"]
    found = summary(readings)
    if asked.json:
        run = {
            "loops": len(readings), "warm_up_loops": WARM_UP, "seconds": round(time.monotonic() - started),
            "commands": list(LOOP), "failed": [text.replace(folder, "") for text in failed], "environment": about,
        }  # fmt: skip
        loops = {key: [getattr(reading, key) for reading in readings] for key in found}
        write_json(asked.json, {"schema_version": SCHEMA_VERSION, **run, **found, "by_loop": loops})
    print(json.dumps(found))
    return int(bool(failed) or any(found[key].get("grows") for key in MUST_NOT_GROW))


if __name__ == "__main__":
    sys.exit(main())
