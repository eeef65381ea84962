"""Latency by pytest-benchmark, in a fresh process per backend.

A process of its own, because an idle engine in the same process slows its neighbours. The case is
``benchmarks/test_latency.py``; this module starts it and reads what it measured.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdbench.artifacts import write_text
from kdbench.data.preprocessing import Size
from kdbench.errors import RunFailed
from kdbench.results import Latency

ROUNDS = 100
WARMUP_ROUNDS = 10
BEYOND = 5
"""Rounds that must lie beyond a percentile for it to be reported."""


@dataclass(frozen=True)
class LatencyCase:
    """One artifact to time; ``name`` is unique among the cases of a process."""

    name: str
    backend: str
    artifact: str
    output: str
    size: Size | None


def measure(
    cases: list[LatencyCase],
    images: list[NDArray[np.uint8]],
    *,
    device: str,
    threads: int,
    rounds: int,
    keep_json: Path,
) -> dict[str, Latency]:
    """Time every case of one backend: case name → latency.

    Args:
        cases: all of one backend.
        images: H x W x 3 uint8 at the engines' size; timed calls rotate over them.
        device, threads: see ``load_backend``.
        rounds: timed calls per case.
        keep_json: where pytest-benchmark's own JSON goes, with every round.

    Raises:
        RunFailed: the process failed; its last line says why.
    """
    suite = importlib.util.find_spec("benchmarks.test_latency")
    if suite is None or suite.origin is None:
        raise RunFailed("the latency suite benchmarks/test_latency.py is not installed: install kdbench again")
    with tempfile.TemporaryDirectory(prefix="kdbench-latency-") as folder:
        np.save(Path(folder) / "images.npy", np.stack(images))
        spec = {
            "cases": [asdict(case) for case in cases],
            "images": str(Path(folder) / "images.npy"),
            "device": device,
            "threads": threads,
            "rounds": rounds,
            "warmup_rounds": WARMUP_ROUNDS,
        }
        spec_file = Path(folder) / "spec.json"
        spec_file.write_text(json.dumps(spec), encoding="utf-8")
        # A person's own pytest settings (addopts, warnings as errors) must not change what is timed.
        raw = Path(folder) / "rounds.json"  # not keep_json itself: another comparison may be writing that one
        settings = Path(folder) / "pytest.ini"
        settings.write_text("[pytest]\n", encoding="utf-8")
        command = [
            sys.executable, "-m", "pytest", suite.origin, f"--spec={spec_file}", "-q", "--benchmark-only",
            f"--benchmark-json={raw}", "--benchmark-columns=median", "-p", "no:cacheprovider",
            "-c", str(settings), f"--rootdir={folder}",
        ]  # fmt: skip
        environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # pytest-benchmark measures nothing where it takes itself for one of pytest-xdist's workers.
        environment.pop("PYTEST_XDIST_WORKER", None)
        done = subprocess.run(command, capture_output=True, text=True, env=environment, errors="replace")
        if done.returncode != 0 or not raw.exists():
            raise RunFailed(f"latency of {cases[0].backend}: the benchmark process failed: {_why(done)}")
        report = json.loads(raw.read_text(encoding="utf-8"))
    write_text(keep_json, json.dumps(report, indent=1) + "\n")
    return {b["extra_info"]["case"]: summarise(np.array(b["stats"]["data"]) * 1e3) for b in report["benchmarks"]}


def _why(done: subprocess.CompletedProcess[str]) -> str:
    """The line of a failed process that says most: pytest's own, else its last, else how it ended."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    said = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")] or lines
    # A process that memory or a crash ended is in the middle of a line of dots.
    ended = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return ended if done.returncode < 0 or not said else said[-1]


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
