"""Latency by pytest-benchmark, in a fresh process per backend.

A process of its own, because an idle engine in the same process slows its neighbours. The case is
``benchmarks/test_latency.py``; this module starts it and reads what it measured.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.comparison.results import Latency, Row
from kdbench.data.preprocessing import Size
from kdbench.errors import RunFailed
from kdbench.machine.apart import LIMIT_S
from kdbench.machine.cores import timed_environment, usable_cores
from kdbench.machine.ending import module_command
from kdbench.machine.scratch import ScratchFolder
from kdbench.runs.files import write_text

BEYOND = 5
"""Rounds that must lie beyond a percentile for it to be reported."""
WINDOW, AGREEMENT, MAX_WINDOWS = 5, 0.03, 20
"""Of the warm-up: calls in a window; share by which the medians of adjacent ones may differ; windows at most."""
UNSTABLE_HALVES, UNSTABLE_INTERVAL, UNSTABLE_STEAL = 0.05, 0.025, 0.02
"""Shares beyond which a measurement is called unstable: halves against each other, interval's half-width, steal."""


@dataclass(frozen=True)
class LatencyCase:
    """One artifact to time; ``name`` is unique among the cases of a process, and it may take ``limit_s`` seconds."""

    name: str
    backend: str
    artifact: str
    output: str
    size: Size | None
    batch: int = 1
    limit_s: float = LIMIT_S


def measure(
    cases: list[LatencyCase],
    images: list[NDArray[np.uint8]],
    *,
    device: str,
    threads: int,
    rounds: int,
    keep_json: Path,
) -> dict[str, Latency | RunFailed]:
    """Time every case of one backend: case name → latency, or why it has none.

    Where their process hangs or crashes, each case is timed in one of its own, so that none costs the others theirs.

    Args:
        cases: all of one backend.
        images: H x W x 3 uint8 at the engines' size; timed calls rotate over them.
        device, threads: see ``load_backend``.
        rounds: timed calls per case.
        keep_json: where pytest-benchmark's own JSON goes, with every round.

    Raises:
        RunFailed: the only process failed; its last line says why.
    """
    try:
        report = _timed(cases, images, device=device, threads=threads, rounds=rounds)
    except RunFailed:
        if len(cases) == 1:
            raise
        return _one_by_one(cases, images, device=device, threads=threads, rounds=rounds)
    write_text(keep_json, json.dumps(report, indent=1) + "\n")
    return _summaries(report)


def _one_by_one(
    cases: list[LatencyCase], images: list[NDArray[np.uint8]], **how: Any
) -> dict[str, Latency | RunFailed]:
    found: dict[str, Latency | RunFailed] = {}
    for case in cases:
        try:
            found |= _summaries(_timed([case], images, **how))
        except RunFailed as error:
            found[case.name] = error
    return found


def _summaries(report: dict[str, Any]) -> dict[str, Latency | RunFailed]:
    return {
        b["extra_info"]["case"]: summarise(np.array(b["stats"]["data"]) * 1e3).model_copy(
            update={"throttled": b["extra_info"]["throttled"]}
        )
        for b in report["benchmarks"]
    }


def _timed(
    cases: list[LatencyCase],
    images: list[NDArray[np.uint8]],
    *,
    device: str,
    threads: int,
    rounds: int,
) -> dict[str, Any]:
    """pytest-benchmark's report of all cases in one process."""
    suite = importlib.util.find_spec("benchmarks.test_latency")
    if suite is None or suite.origin is None:
        raise RunFailed("the latency suite benchmarks/test_latency.py is not installed: install kdbench again")
    with ScratchFolder("latency") as folder:
        np.save(Path(folder) / "images.npy", np.stack(images))
        spec = {
            "cases": [asdict(case) for case in cases],
            "images": str(Path(folder) / "images.npy"),
            "device": device,
            "threads": threads,
            "rounds": rounds,
        }
        spec_file = Path(folder) / "spec.json"
        spec_file.write_text(json.dumps(spec), encoding="utf-8")
        # A person's own pytest settings (addopts, warnings as errors) must not change what is timed.
        raw = Path(folder) / "rounds.json"  # not keep_json itself: another comparison may be writing that one
        settings = Path(folder) / "pytest.ini"
        settings.write_text("[pytest]\n", encoding="utf-8")
        command = [
            *module_command("pytest"), suite.origin, f"--spec={spec_file}", "-q", "--benchmark-only",
            f"--benchmark-json={raw}", "--benchmark-columns=median", "-p", "no:cacheprovider",
            "-c", str(settings), f"--rootdir={folder}",
        ]  # fmt: skip
        environment = {
            **timed_environment(),
            "PYTEST_ADDOPTS": "",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        # pytest-benchmark measures nothing where it takes itself for one of pytest-xdist's workers.
        environment.pop("PYTEST_XDIST_WORKER", None)
        limit = sum(case.limit_s for case in cases)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, errors="replace", timeout=limit
            )
        except subprocess.TimeoutExpired as error:
            raise RunFailed(
                f"latency of {cases[0].backend}: no answer within {limit:g} s: give it more with --timeout, or ask for "
                "fewer --rounds"
            ) from error
        if done.returncode != 0 or not raw.exists():
            raise RunFailed(f"latency of {cases[0].backend}: the benchmark process failed: {_why(done)}")
        found: dict[str, Any] = json.loads(raw.read_text(encoding="utf-8"))
    return found


def _why(done: subprocess.CompletedProcess[str]) -> str:
    """The line of a failed process that says most: pytest's own, else its last, else how it ended."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    said = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")] or lines
    # A process that memory or a crash ended is in the middle of a line of dots.
    ended = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return ended if done.returncode < 0 or not said else said[-1]


def until_steady(call_ms: Callable[[], float]) -> int:
    """Call until the medians of two adjacent windows agree, or ``MAX_WINDOWS`` are over: the number of calls.

    Args:
        call_ms: makes one call and returns its milliseconds.
    """
    before, windows, steady = math.inf, 0, False
    while not steady and windows < MAX_WINDOWS:
        now = statistics.median(call_ms() for _ in range(WINDOW))
        steady = abs(now / before - 1) <= AGREEMENT
        before, windows = now, windows + 1
    return windows * WINDOW


def throttled_notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of latencies that were measured under a quota which stopped the engine."""
    stopped = [row for row in rows if row.latency is not None and row.latency.throttled > UNSTABLE_STEAL]
    if not stopped:
        return []
    most = max(row.latency.throttled for row in stopped if row.latency is not None)
    named = ", ".join(f"{row.run} {row.backend} {row.precision}" for row in stopped)
    return [
        f"this container's CPU quota stopped the engine for up to {100 * most:.0f}% of the time of {named}: these are "
        "latencies of a throttled machine: lower --threads, or raise the quota"
    ]


def instability(
    milliseconds: NDArray[np.float64], latency: Latency, steal: float | None, load_average: float | None
) -> str | None:
    """Why a measurement should not be trusted to a few percent, and what to do; None = nothing speaks against it.

    Args:
        milliseconds: the rounds in the order of time.
        latency: their statistics.
        steal: share of CPU time that the hypervisor gave away meanwhile.
        load_average: of the machine before it began.
    """
    reasons = []
    half = len(milliseconds) // 2
    if half >= BEYOND:
        change = float(np.median(milliseconds[half:]) / np.median(milliseconds[:half])) - 1
        if abs(change) > UNSTABLE_HALVES:
            reasons.append(f"its second half is {100 * change:+.0f}% against its first")
    width = (latency.ci95_ms[1] - latency.ci95_ms[0]) / 2 / latency.median_ms
    if width > UNSTABLE_INTERVAL:
        reasons.append(f"the median is known to ±{100 * width:.0f}% alone")
    if steal is not None and steal > UNSTABLE_STEAL:
        reasons.append(f"the hypervisor gave {100 * steal:.0f}% of the CPU time to others")
    cores = usable_cores()
    if load_average is not None and load_average > 1.5 * cores:  # kdbench's own work before it leaves about 1
        reasons.append(f"the load average was {load_average:g} on {cores} cores before it began")
    if not reasons:
        return None
    return (
        f"{'; '.join(reasons)}: close what else runs and measure again with more --rounds; whether two artifacts "
        "differ is what `kdbench regress` tells on such a machine"
    )


def summarise(milliseconds: NDArray[np.float64]) -> Latency:
    """Statistics of the raw rounds, in milliseconds; the interval is a percentile bootstrap of the median."""
    from scipy.stats import bootstrap

    rounds = len(milliseconds)

    def percentile(q: float) -> float | None:
        return float(np.percentile(milliseconds, q)) if rounds * (1 - q / 100) >= BEYOND - 1e-9 else None

    interval = (float(milliseconds[0]),) * 2
    if rounds > 1 and np.ptp(milliseconds) > 0:
        ci = bootstrap((milliseconds,), np.median, n_resamples=2000, method="percentile", rng=0).confidence_interval
        interval = (float(ci.low), float(ci.high))
    return Latency(
        median_ms=float(np.median(milliseconds)),
        mean_ms=float(milliseconds.mean()),
        std_ms=float(milliseconds.std(ddof=1)) if rounds > 1 else 0.0,
        p95_ms=percentile(95),
        p99_ms=percentile(99),
        ci95_ms=interval,
        rounds=rounds,
    )
