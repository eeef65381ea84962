"""``kdbench demo``: the whole pipeline on generated scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.app import app
from kdbench.cli.compare import CompareFlags, run_compare
from kdbench.cli.export import ExportOptions, run_export
from kdbench.cli.options import Device, JsonFile, Runs, choose_seeds, json_result
from kdbench.cli.report import run_report
from kdbench.cli.training import TrainFlags, run_training
from kdbench.runs.files import read_json
from kdbench.runs.tree import RunTree

DATASET, STUDENTS = "materials", ("baseline", "response", "feature")
ABOUT = """\
A few minutes on two cores, no download. A teacher learns from 1000 generated scenes with labels. Three students
learn from 64 labelled scenes; two of them also from 436 scenes without labels, of which the teacher tells them its
opinion. With three seeds each. Then exports, one table through PyTorch and ONNX Runtime, and a report.
"""


@app.command(computes=True)
def demo(
    runs: Runs = Path("runs"),
    device: Device = "auto",
    seeds: Annotated[str, typer.Option(help="Of the students.")] = "0,1,2",
    json_file: JsonFile = None,
) -> None:
    """Train, export and compare on generated scenes: the whole pipeline in a few minutes, no download.

    Leaves its comparison in runs/materials/compare.json, .txt, .md and .csv, and report.html beside it.

    Example:
      kdbench demo --runs demo-runs
    """
    tree = RunTree(runs, DATASET)
    with json_result(json_file) as document:
        print(ABOUT)
        first = {"seed": choose_seeds(seeds)[0]}  # whose students are exported
        flags = TrainFlags(
            ("teacher", *STUDENTS), DATASET, first, device=device, seeds=seeds, go_on="run the demo again"
        )
        run_training(tree, flags, None)
        run_export(tree, ExportOptions(STUDENTS, ("onnx", "trt")))
        run_compare(tree, CompareFlags(",".join(STUDENTS), "torch,onnx,trt", device=device))
        report = tree.root / "report.html"
        run_report(tree, report, tree.comparison)
        print(
            f"\nOpen {report.as_posix()} in a browser. With your own images and masks next:\n"
            "  kdbench data describe my-data --output my.toml\n"
            "  kdbench train --method all --dataset my.toml --seeds 0,1,2"
        )
        document.update(read_json(tree.comparison, "kdbench demo"))
