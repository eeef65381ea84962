"""How long ``kdbench demo`` takes and what it shows: with its own seeds, with fresh ones, and on an older processor.

    python -m benchmarks.demo_time --json results/demo.json
    python -m benchmarks.demo_time --json results/demo.json --only "its own seeds, AVX2"    # the file keeps its others

Three demos, one after the other, each in a folder of its own: seeds 0, 1, 2; seeds 3, 4, 5, by which nothing was
chosen; and seeds 0, 1, 2 with PyTorch and oneDNN held to AVX2, as on a processor without AVX-512 (ONNX Runtime has no
such switch and stays as it is). Timed by themselves are ``kdbench report`` and, after it, every export of every method
in every format and precision. Prints a line for each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from kdbench.comparison.results import Comparison
from kdbench.machine.environment import environment, git_revision
from kdbench.runs.files import read_json, write_json
from kdbench.runs.tree import RunTree

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
DEMOS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("its own seeds", "0,1,2", {}),
    ("fresh seeds", "3,4,5", {}),
    ("its own seeds, AVX2", "0,1,2", AVX2),
)


def timed(arguments: list[str], settings: dict[str, str]) -> float:
    """Seconds that a command takes in a process of its own."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "kdbench", *arguments, "--quiet"]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"kdbench {' '.join(arguments)}: {done.stderr}")
    return round(time.perf_counter() - started, 1)


def measure(name: str, seeds: str, settings: dict[str, str], runs: Path) -> dict[str, Any]:
    seconds = timed(["demo", "--runs", str(runs), "--seeds", seeds], settings)
    report = timed(["report", "--runs", str(runs)], settings)
    comparison = Comparison.read(RunTree(runs, "materials").comparison)
    everything = ("--method", "all", "--format", "all", "--precision", "all", "--dataset", "materials")
    export = timed(["export", "--runs", str(runs), *everything], settings)
    by_seed = {method: about["miou_by_seed"] for method, about in comparison.training.items()}
    row = {
        "name": name, "seeds": seeds, "settings": settings, "seconds": seconds, "report_seconds": report,
        "export_seconds": export, "miou_by_seed": by_seed,
        "gains": [gain.model_dump(mode="json") for gain in comparison.improvements], "git": git_revision(),
    }  # fmt: skip
    gains = ", ".join(
        f"{gain.method} {gain.delta_miou:+.4f} ± {gain.standard_error:.4f} ({gain.verdict})"
        for gain in comparison.improvements
    )
    print(
        f"{name}: {seconds:.0f} s, report {report:.0f} s, every export {export:.0f} s; "
        f"baseline {fmean(by_seed['baseline']):.4f}, {gains}",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=[name for name, _, _ in DEMOS], help="one demo, beside what --json holds")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"schema_version": 1, "benchmark": "demo_time", "rows": [], "environment": environment()}
    if arguments.only and arguments.json and arguments.json.exists():
        report = read_json(arguments.json, "python -m benchmarks.demo_time")
    rows = {row["name"]: row for row in report["rows"]}
    with tempfile.TemporaryDirectory(prefix="kdbench-demo-") as folder:
        for number, (name, seeds, settings) in enumerate(DEMOS):
            if arguments.only in (None, name):
                rows[name] = measure(name, seeds, settings, Path(folder) / str(number))
                if arguments.json:
                    write_json(arguments.json, {**report, "rows": list(rows.values())})
    print(json.dumps({"seconds": [row["seconds"] for row in rows.values()]}))


if __name__ == "__main__":
    main()
