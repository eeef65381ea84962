"""Nodes and bytes of kdbench's ONNX exports against a plain ``torch.onnx.export`` of the same module.

    python -m benchmarks.graph_size

Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import torch

from exporters.graph import write_graph
from kdbench.machine.environment import environment
from kdbench.models.deployed import deployable
from kdbench.models.registry import build_model
from kdbench.runs.files import write_json

SIZE, CLASSES = (512, 512), 11
LEFTOVERS = ("Identity", "BatchNormalization", "Reshape", "Gather", "Constant", "Shape")
"""Operators that a lean graph of the student has none of."""


def describe(what: str, path: Path) -> dict[str, Any]:
    model = onnx.load(path)
    operators = Counter(node.op_type for node in model.graph.node)
    return {
        "graph": what, "nodes": len(model.graph.node), "bytes": path.stat().st_size, "resizes": operators["Resize"],
        "leftovers": {name: operators[name] for name in LEFTOVERS if operators[name]}, "operators": dict(operators),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    module = deployable(build_model("student", CLASSES).eval(), "mask")
    example = torch.zeros(1, *SIZE, 3, dtype=torch.uint8)
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(module, (example,), path, dynamo=True, external_data=False, verbose=False)
        rows.append(describe("plain torch.onnx.export(dynamo=True)", path))
        torch.onnx.export(module, (example,), path, dynamo=True, optimize=False, external_data=False, verbose=False)
        rows.append(describe("the same with optimize=False", path))
        write_graph(module, "mask", SIZE, path)
        rows.append(describe("kdbench fp32", path))
        half = deployable(build_model("student", CLASSES).eval().half(), "mask")
        write_graph(half, "mask", SIZE, path)
        rows.append(describe("kdbench fp16", path))
    report = {
        "schema_version": 1, "benchmark": "graph_size", "size": list(SIZE), "rows": rows,
        "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(f"{'student, mask output, 512 x 512':<40}{'nodes':>7}{'MB':>8}{'Resize':>8}  leftovers")
    for row in rows:
        left = ", ".join(f"{count} {name}" for name, count in row["leftovers"].items()) or "none"
        print(f"{row['graph']:<40}{row['nodes']:>7}{row['bytes'] / 1e6:>8.2f}{row['resizes']:>8}  {left}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
