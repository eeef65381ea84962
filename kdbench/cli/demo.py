"""``kdbench demo``: the whole pipeline on generated scenes."""

from __future__ import annotations

from pathlib import Path

from kdbench.cli.app import app
from kdbench.cli.compare import CompareFlags, run_compare
from kdbench.cli.export import ExportOptions, run_export
from kdbench.cli.options import Device, JsonFile, Runs, json_result
from kdbench.cli.train import TrainFlags, run_training
from kdbench.runs.files import read_json
from kdbench.runs.tree import RunTree


@app.command(computes=True)
def demo(runs: Runs = Path("runs"), device: Device = "auto", json_file: JsonFile = None) -> None:
    """Train, export and compare on generated scenes: the whole pipeline in a few minutes, no download.

    Leaves its comparison in runs/shapes/compare.json, .txt, .md and .csv. Too short to rank methods.

    Example:
      kdbench demo --runs demo-runs
    """
    tree = RunTree(runs, "shapes")
    students = ("baseline", "response", "feature")
    with json_result(json_file) as document:
        flags = TrainFlags(("teacher", *students), "demo", device=device, go_on="run the demo again")
        run_training(tree, flags, None)
        run_export(tree, ExportOptions(students, ("onnx", "trt")))
        run_compare(tree, CompareFlags(",".join(students), "torch,onnx,trt", device=device))
        document.update(read_json(tree.comparison, "kdbench demo"))
