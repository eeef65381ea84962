"""Whether kdbench's own number of threads is a good one where answers alone matter: undisturbed, and limited.

    python -m benchmarks.thread_settings            # six minutes on two cores

Scoring a split through PyTorch, ONNX Runtime and OpenVINO, and the proof of an export, with one thread, with two, and
with as many as kdbench takes by itself; alone, beside a busy neighbour, under a quota of one core, and bound to one
core. Each setting is a process of its own, which started in that situation; short passes take turns (``interleaved``).
Then the real `kdbench compare` under the quota: whether its latencies say that they were throttled.

Prints a table for each and one JSON line. A situation that this machine does not allow is left out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.interleaved import Call, Contender, alternate, ratio_with_interval
from benchmarks.situations import NotHereError, neighbour, one_core, quota_of_one_core
from kdbench.machine.cores import answers_alone, asked_threads, cores
from kdbench.machine.environment import environment
from kdbench.runs.files import read_json, write_json
from kdbench.runs.tree import RunTree

Situation = Callable[[], AbstractContextManager[None]]
SITUATIONS: dict[str, tuple[Situation, Situation]] = {
    "alone": (nullcontext, nullcontext),
    "beside a busy neighbour": (nullcontext, neighbour),
    "a quota of one core": (quota_of_one_core, nullcontext),
    "bound to one core": (one_core, nullcontext),
}
"""Name → what processes start in, and what is beside them."""
OWN = "own choice"
SETTINGS = {"1 thread": 1, "2 threads": 2, OWN: 0}
"""Name → --threads."""
IMAGES = {"torch": 12, "onnx": 36, "openvino": 36, "proof of an export": 12}
"""What is measured → images of a pass."""
SIZE, GOAL = "180x240", 1.3
THROTTLED = "a quota of one core"

_kept = ExitStack()
"""What holds for the rest of a process that is measured."""


def open_pass(what: str, runs: Path, threads: int) -> Call:
    """A pass as a command of ``--threads`` makes it; nothing may be imported before its limits are known."""
    _kept.enter_context(asked_threads(threads))
    _kept.enter_context(answers_alone())
    from kdbench.backends import artifact_of, load_backend
    from kdbench.comparison.evaluate import evaluate
    from kdbench.data.shapes import Shapes

    class Few(Shapes):
        def __len__(self) -> int:
            return IMAGES[what]

    scenes, tree = Few("val"), RunTree(runs, "shapes")
    if what in ("torch", "onnx", "openvino"):
        backend = load_backend(what, artifact_of(tree, "baseline", what, "fp32", "mask"), output="mask")
        return lambda index: evaluate(backend, scenes)
    from exporters.export_job import ExportJob
    from exporters.proven_export import prove
    from exporters.to_onnx import open_onnx

    samples = [scenes[i] for i in range(len(scenes))]
    job = _kept.enter_context(ExportJob(tree, "baseline", "mask", samples=samples, allow_drift=True))
    path = tree.export("baseline", "onnx", "fp32", "mask")
    return lambda index: prove(job, open_onnx(path, job), "onnx", "fp32")


def measure(name: str, what: str, runs: Path, blocks: int) -> dict[str, Any]:
    """Every setting of one thing in one situation.

    Raises:
        NotHereError: this machine cannot be brought into it.
    """
    starts_in, beside = SITUATIONS[name]
    with starts_in(), beside():
        own = cores()
        contenders: list[Contender] = []
        try:
            for setting, threads in SETTINGS.items():
                contenders.append(Contender(setting, open_pass, what, runs, threads, calls=1, warmup=2))
            found = alternate(contenders, blocks)
        finally:
            for contender in contenders:
                contender.stop()
    fixed = [setting for setting in SETTINGS if setting != OWN]
    best = min(fixed, key=lambda setting: statistics.median(found[setting]))
    return {
        "situation": name, "pass": what, "images": IMAGES[what], "own_threads": own.number, "own_by": own.source,
        "best": best, "own_over_best": ratio_with_interval(found[OWN], found[best]),
        "two_over_one": ratio_with_interval(found[fixed[1]], found[fixed[0]]), "block_ms": found,
    }  # fmt: skip


def kdbench(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "kdbench", *arguments, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def make_student(runs: Path) -> None:
    """A student of a single epoch and its exports: weights do not change the time."""
    where = ("--dataset", "shapes", "--runs", str(runs), "--method", "baseline")
    kdbench("train", *where, "--size", SIZE, "--epochs", "1", "--images", "64", "--threads", "1")
    kdbench("export", *where, "--format", "onnx,openvino", "--precision", "fp32", "--threads", "1")


def latency_under_quota(runs: Path, threads: int) -> dict[str, Any]:
    """What ``kdbench compare`` says of ONNX Runtime's latency under the quota.

    Raises:
        NotHereError: there can be no quota here.
    """
    results = runs / f"compare-{threads}.json"
    with quota_of_one_core():
        kdbench(
            *("compare", "--dataset", "shapes", "--runs", str(runs), "--method", "baseline", "--backend", "onnx"),
            *("--precision", "fp32", "--threads", str(threads), "--rounds", "100", "--json", str(results)),
        )
    compared = read_json(results, "kdbench compare")
    rounds = json.loads(RunTree(runs, "shapes").latency("onnx").read_text(encoding="utf-8"))  # pytest-benchmark's
    timed = rounds["benchmarks"][0]["extra_info"]
    (row,) = compared["rows"]
    return {
        "threads": compared["timing"]["threads"], "throttled": timed["throttled"],
        "median_ms": row["latency"]["median_ms"], "p95_ms": row["latency"]["p95_ms"],
        "marked": [note for note in compared["notes"] if "quota stopped the engine" in note],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=4, help="each setting twice in each")
    parser.add_argument("--only", default="", help="situations with this in their names")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if arguments.blocks < 2:
        parser.error(f"--blocks: got {arguments.blocks}, expected 2 at least, for an interval")
    os.environ.pop("OMP_NUM_THREADS", None)  # which would be the choice
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    latency: dict[str, dict[str, Any]] = {}
    print(f"student at {SIZE}, {arguments.blocks} blocks; wall-clock of own choice over the best of 1 and 2 threads")
    print(f"{'situation':<26}{'pass':<20}{'own':>4}{'own / best':>22}{'2 threads / 1':>22}")
    with tempfile.TemporaryDirectory() as folder:
        make_student(Path(folder))
        for name in (name for name in SITUATIONS if arguments.only in name):
            try:
                for what in IMAGES:
                    rows.append(row := measure(name, what, Path(folder), arguments.blocks))
                    ratios = [f"{at:.2f} ({low:.2f}–{high:.2f})" for at, low, high in (
                        row["own_over_best"], row["two_over_one"])]  # fmt: skip
                    print(f"{name:<26}{what:<20}{row['own_threads']:>4}{ratios[0]:>22}{ratios[1]:>22}", flush=True)
            except NotHereError as reason:
                left_out[name] = str(reason)
                print(f"{name:<26}left out: {reason}")
        if arguments.only in THROTTLED and THROTTLED not in left_out:
            latency = {setting: latency_under_quota(Path(folder), threads) for setting, threads in SETTINGS.items()}
    for setting, found in latency.items():
        print(
            f"compare under {THROTTLED}, {setting}: median {found['median_ms']:.2f} ms, p95 {found['p95_ms']:.2f} ms, "
            f"stopped {found['throttled']:.0%} of the time, {'marked' if found['marked'] else 'not marked'}"
        )
    report = {
        "schema_version": 1, "benchmark": "thread_settings", "size": SIZE, "goal": GOAL, "rows": rows,
        "left_out": left_out, "latency_under_quota": latency,
        "missed": [f"{row['situation']}, {row['pass']}" for row in rows if row["own_over_best"][0] > GOAL],
        "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
