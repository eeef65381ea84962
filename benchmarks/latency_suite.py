"""Latency of everything that was trained and exported: a case per method x backend x precision x output x batch.

    python -m benchmarks.latency_suite                      # what was trained last, batch 1
    python -m benchmarks.latency_suite --backend torch,onnx --precision fp32,int8 --batch 1,4,16
    python -m benchmarks.latency_suite --from runs/shapes/latency/suite.json      # the table again, from its rounds

Every case runs in a fresh process, by pytest-benchmark (``test_latency.py``). The file is pytest-benchmark's own JSON,
with every round: ``pytest-benchmark compare FILE`` reads it. A batch above 1 needs an export with ``--dynamic-batch``,
or PyTorch. Prints one table and, for a measurement that should not be trusted to a few percent, why.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from kdbench.backends import BACKENDS, artifact_of, runs_checkpoints, usual_backends
from kdbench.cli.options import choose, choose_batches, choose_device, open_trained_dataset
from kdbench.comparison.latency import BEYOND, LatencyCase, instability, measure, summarise
from kdbench.data.preprocessing import resize_image
from kdbench.errors import KdbenchError, RunFailed
from kdbench.formats import PRECISIONS
from kdbench.machine.cores import usable_cores
from kdbench.machine.environment import environment
from kdbench.methods.base import student_methods
from kdbench.progress import progress_bar
from kdbench.runs.files import write_text
from kdbench.runs.tree import RunTree

IMAGES = 8


def find_cases(tree: RunTree, arguments: argparse.Namespace) -> tuple[list[LatencyCase], list[str]]:
    """What there is to time, and a line for each artifact that is missing."""
    trained = tuple(m for m in student_methods() if tree.checkpoint(m).exists())
    methods = choose("--method", arguments.method, student_methods(), trained or student_methods())
    backends = choose("--backend", arguments.backend, BACKENDS.names(), usual_backends())
    precisions = choose("--precision", arguments.precision, PRECISIONS, PRECISIONS)
    outputs = choose("--output", arguments.output, ("mask", "logits"), ("mask", "logits"))
    cases, missing = [], []
    for method in methods:
        for backend in backends:
            for precision in BACKENDS[backend].rows(precisions):
                for output in outputs:
                    artifact = artifact_of(tree, method, backend, precision, output)
                    name = f"{method}-{backend}-{precision}-{output}"
                    if (why_not := BACKENDS[backend].why_not(precision)) is not None:
                        missing.append(f"{name}: unsupported: {why_not}")
                        continue
                    if not artifact.exists():
                        missing.append(f"{name}: no '{artifact}': make it with `kdbench export --method {method}`")
                        continue
                    cases += [
                        LatencyCase(f"{name}-b{batch}", backend, str(artifact), output, None, batch)
                        for batch in choose_batches(arguments.batch)
                    ]
    return cases, missing


def run(tree: RunTree, arguments: argparse.Namespace) -> dict[str, Any]:
    """pytest-benchmark's JSON of all cases, and under "not_run" why others are not among them."""
    device, threads = choose_device(arguments.device), arguments.threads or usable_cores()
    cases, not_run = find_cases(tree, arguments)
    if not cases:
        raise RunFailed(not_run[0] if not_run else "nothing to time")
    scenes = open_trained_dataset(tree, arguments.data_root, "baseline")
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, progress_bar("latency", len(cases)) as bar:
        for case in cases:
            size = size_of(case)
            images = [resize_image(scenes[i].image, size) for i in range(min(IMAGES, len(scenes)))]
            raw = Path(folder) / "rounds.json"
            try:
                measure([case], images, device=device, threads=threads, rounds=arguments.rounds, keep_json=raw)
            except RunFailed as error:
                not_run.append(f"{case.name}: {' '.join(str(error).split())}")
            else:
                found = json.loads(raw.read_text(encoding="utf-8"))
                if document:
                    document["benchmarks"] += found["benchmarks"]
                else:
                    document = found
            bar.advance(1, case.name)
    if not document:
        raise RunFailed(not_run[0])
    return {**document, "kdbench": environment(), "not_run": not_run}


def size_of(case: LatencyCase) -> tuple[int, int]:
    """(H, W) by the artifact's sidecar."""
    from kdbench.runs.files import read_json
    from kdbench.runs.tree import sidecar_path

    made_by = "kdbench train" if runs_checkpoints(case.backend) else "kdbench export"
    height, width = read_json(sidecar_path(Path(case.artifact)), made_by)["size"]
    return height, width


def table_of(document: dict[str, Any]) -> tuple[Table, list[str]]:
    """Everything from the recorded rounds: the table, and lines to be read below it."""
    table = Table(header_style="bold")
    for index, name in enumerate(
        ("case", "median ms", "95% interval", "mean ± std", "p95", "p99", "images/s", "first ms", "load ms", "MiB")
    ):
        table.add_column(name, justify="right" if index else "left")
    notes = []
    for benchmark in document["benchmarks"]:
        about, milliseconds = benchmark["extra_info"], np.array(benchmark["stats"]["data"]) * 1e3
        found = summarise(milliseconds)
        low, high = found.ci95_ms
        why = instability(milliseconds, found, about["steal"], about["before"]["load_average"])
        if why:
            notes.append(f"unstable: {about['case']}: {why}")
        # A percentile says nothing with fewer calls than leave five beyond it.
        tails = [
            f"{value:.2f}" if value is not None else f"needs {round(BEYOND / (1 - percentile / 100))}"
            for percentile, value in ((95, found.p95_ms), (99, found.p99_ms))
        ]
        gpu = "" if about["gpu_mib"] is None else f" + {about['gpu_mib']:.0f} GPU"
        table.add_row(
            about["case"] + (" *" if why else ""), f"{found.median_ms:.2f}", f"{low:.2f}–{high:.2f}",
            f"{found.mean_ms:.2f} ± {found.std_ms:.2f}", *tails, f"{1e3 * about['batch'] / found.median_ms:.1f}",
            f"{about['first_ms']:.1f}", f"{about['load_ms']:.0f}", f"{about['peak_mib']:.0f}{gpu}",
        )  # fmt: skip
    first = document["benchmarks"][0]["extra_info"]
    hardware = document["kdbench"]["hardware"]
    rounds = len(document["benchmarks"][0]["stats"]["data"])
    notes.append(
        f"{first['threads']} threads on {hardware['cores']} cores ({hardware['cpu']}), governor "
        f"{first['before']['governor'] or 'not told'}, {rounds} rounds, a fresh process per case; the first call and "
        "the warm-up are not among the rounds"
    )
    return table, notes + [f"not run: {line}" for line in document["not_run"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--dataset", help="default: the one trained last")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--method", default="all")
    parser.add_argument("--backend", default="all")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--output", default="mask")
    parser.add_argument("--batch", default="1", help="several with commas")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0 = one per core")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, help="default: latency/suite.json in the dataset's folder of runs")
    parser.add_argument("--from", dest="source", type=Path, help="show a file again, measure nothing")
    arguments = parser.parse_args()
    try:
        if arguments.source:
            document, destination = json.loads(arguments.source.read_text(encoding="utf-8")), None
        else:
            tree = RunTree.find(arguments.runs, arguments.dataset)
            destination = arguments.json or tree.latency("suite")
            document = run(tree, arguments)
            write_text(destination, json.dumps(document) + "\n")
    except KdbenchError as error:
        print(f"latency_suite: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    table, notes = table_of(document)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if destination:
        print(f"written: {destination}; `pytest-benchmark compare {destination}` reads it")


if __name__ == "__main__":
    main()
