"""Files of other libraries through the command line alone: import, every export, compare and choose.

    python -m benchmarks.import_files --data-root data/camvid --json results/imported-files.json

Each network (``import_strangers``) is trained for a few steps, so that its masks hold several classes, and exported as
its user would. Reported of each: the pixels on which the imported file in fp32 has the class of the network in PyTorch,
and those on which it has that of the file itself (goal: 99.99%); what int8 loses of mIoU (goal: at most a point, or
refused); and which rows are ok.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.import_strangers import STRANGERS, Stranger, build, train, write_file
from kdbench.backends.onnx_runtime import OnnxBackend
from kdbench.data import SegmentationDataset, open_dataset
from kdbench.data.labels import IGNORE
from kdbench.data.preprocessing import Size, normalise, parse_size, resize_image
from kdbench.machine.environment import environment
from kdbench.runs.files import write_json
from kdbench.runs.tree import RunTree

CHECKED, GOAL = 16, 0.9999
BINARY = ("other", "road")


def kdbench(*arguments: object) -> tuple[int, str, str]:
    """The command line in a process of its own: exit code, stdout, stderr."""
    command = [sys.executable, "-m", "kdbench", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def write_binary(root: Path, dataset: str, data_root: Path, share: int) -> Path:
    """The dataset as a folder of two classes: road, and all else."""
    for name in ("train", "val"):
        split = open_dataset(dataset, name, data_root)
        road = split.classes.index("road") if "road" in split.classes else 1
        for kind in ("images", "masks"):
            (root / kind / name).mkdir(parents=True)
        for index in range(0, len(split), share):
            sample = split[index]
            mask = np.where(sample.label == IGNORE, IGNORE, sample.label == road).astype(np.uint8)
            Image.fromarray(sample.image).save(root / "images" / name / f"{index}.png")
            Image.fromarray(mask).save(root / "masks" / name / f"{index}.png")
    (root / "classes.txt").write_text("\n".join(BINARY) + "\n", encoding="utf-8")
    return root


def masks_of(stranger: Stranger, network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """H x W class ids that the network itself gives, by PyTorch alone."""
    with torch.inference_mode():
        scores = stranger.outputs(network(torch.from_numpy(normalise(image[None], stranger.wanted))))[-1]
        full = F.interpolate(scores, size=image.shape[:2], mode="bilinear", align_corners=False)[0]
    found: np.ndarray = (full[0] > 0).numpy() if stranger.binary else full.argmax(0).numpy()
    return found


def agreement(
    stranger: Stranger, network: torch.nn.Module, mask: Path, split: SegmentationDataset
) -> tuple[float, list[int]]:
    """Share of pixels on which an imported file has PyTorch's class; and the classes that occur."""
    backend = OnnxBackend.open(mask, output="mask", spinning=False)
    same, pixels, seen = 0, 0, set[int]()
    for index in range(0, len(split), max(1, len(split) // CHECKED)):
        image = resize_image(split[index].image, backend.size)
        expected, got = masks_of(stranger, network, image), backend.infer(image[None])[0]
        same, pixels = same + int((expected == got).sum()), pixels + got.size
        seen |= set(np.unique(expected).tolist())
    backend.close()
    return same / pixels, sorted(seen)


def through_the_command_line(
    name: str, path: Path, about: Sequence[object], flags: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Import, export, compare and, where there is one, choose; what each said."""
    where = ("--dataset", about[0], "--data-root", about[1])
    runs = ("--runs", folder / "runs" / name)
    json_file = folder / f"{name}.json"
    steps: dict[str, list[object]] = {
        "import": ["import", path, "--name", name, *where, *runs, *flags, "--json", folder / f"{name}-import.json"],
        "export": [
            "export", "--method", name, *where, *runs, "--format", "all", "--precision", "all", "--json",
            folder / f"{name}-export.json",
        ],
        "compare": [
            "compare", "--method", name, *where, *runs, "--precision", "all", "--rounds", "10", "--json", json_file,
        ],
    }  # fmt: skip
    if kdbench("choose", "--help")[0] == 0:
        steps["choose"] = ["choose", "--results", json_file]
    found: dict[str, Any] = {}
    for step, arguments in steps.items():
        started = time.perf_counter()
        code, out, err = kdbench(*arguments)
        found[step] = {
            "exit_code": code,
            "seconds": round(time.perf_counter() - started, 1),
            "error": err.strip()[-600:],
        }
        if step == "import" and code != 0:
            print(out, file=sys.stderr)
            break
    return found


def measure(
    name: str, network: torch.nn.Module, split: SegmentationDataset, about: Sequence[object], folder: Path, size: Size
) -> dict[str, Any]:
    """One file, from torch.onnx.export to the table."""
    stranger = STRANGERS[name]
    path = folder / f"{name}.onnx"
    write_file(stranger, network, path, size)
    flags = [*stranger.flags, *(["--size", f"{size[0]}x{size[1]}"] if stranger.open_size else [])]
    row: dict[str, Any] = {"name": name, "flags": flags, **through_the_command_line(name, path, about, flags, folder)}
    if "no reading wins clearly" in row["import"].get("error", ""):  # after few steps masks may hold one class
        flags += stranger.wanted_flags()
        row |= {"flags": flags, "reading_asked_for": row["import"]["error"]}
        row |= through_the_command_line(name, path, about, flags, folder)
    if row["import"]["exit_code"] != 0:
        return row
    tree = RunTree(folder / "runs" / name, str(about[0]))
    row["agreement_with_pytorch"], row["classes_seen"] = agreement(
        stranger, network, tree.export(name, "onnx", "fp32", "mask"), split
    )
    imported = json.loads((folder / f"{name}-import.json").read_text(encoding="utf-8"))
    row["agreement_with_file"], row["assumed"] = imported["parity"]["pixel_agreement"], imported["assumed"]
    row["input"], row["miou"] = imported["input"], imported["miou"]
    comparison = folder / f"{name}.json"
    if comparison.exists():
        rows = json.loads(comparison.read_text(encoding="utf-8"))["rows"]
        row["rows"] = [
            {key: one[key] for key in ("backend", "precision", "status", "reason", "miou", "agreement_with_torch")}
            for one in rows
        ]
    exports = folder / f"{name}-export.json"
    if exports.exists():
        row["exports"] = json.loads(exports.read_text(encoding="utf-8"))["exports"]
        for export in row["exports"]:
            parity = export.pop("parity") or {}
            if parity and export["precision"] == "int8":
                export["miou_lost"] = parity["miou_reference"] - parity["miou_candidate"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--steps", type=int, default=150, help="of training")
    parser.add_argument("--size", type=parse_size, default=(352, 480), help="HEIGHTxWIDTH, multiples of 32")
    parser.add_argument("--only", help="names with commas")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    rows, trained = [], dict[Any, torch.nn.Module]()
    with tempfile.TemporaryDirectory(prefix="kdbench-import-") as text:
        folder = Path(text)
        for name in (arguments.only or ",".join(STRANGERS)).split(","):
            stranger = STRANGERS[name]
            about: tuple[str, Path | None] = (arguments.dataset, arguments.data_root)
            if stranger.binary:
                about = ("folder", write_binary(folder / "binary", arguments.dataset, arguments.data_root, 2))
            splits = [open_dataset(about[0], split, about[1]) for split in ("train", "val")]
            key = (stranger.network, stranger.wanted)
            if key not in trained:
                trained[key] = build(stranger, len(splits[0].classes))
                train(stranger, trained[key], splits[0], arguments.size, arguments.steps)
            rows.append(measure(name, trained[key], splits[1], about, folder, arguments.size))
            print(as_line(rows[-1]), flush=True)
    report = {
        "schema_version": 1, "benchmark": "import_files", "dataset": arguments.dataset, "size": list(arguments.size),
        "steps": arguments.steps, "goal": GOAL, "rows": rows,
        "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)


def as_line(row: dict[str, Any]) -> str:
    if "agreement_with_file" not in row:
        return f"{row['name']:<20}import: {row['import']['error']}"
    ok = [f"{one['backend']} {one['precision']}" for one in row.get("rows", []) if one["status"] == "ok"]
    lost = [
        f"{one['format']} {one['status']}" + (f" {one['miou_lost']:+.4f}" if "miou_lost" in one else "")
        for one in row.get("exports", []) if one["precision"] == "int8"
    ]  # fmt: skip
    shares = [f"{100 * row[key]:.4f}%" for key in ("agreement_with_file", "agreement_with_pytorch")]
    return (
        f"{row['name']:<20}file {shares[0]}  PyTorch {shares[1]}  classes {len(row['classes_seen'])}  "
        f"mIoU {row['miou']:.4f}  int8 lost: {', '.join(lost)}  ok: {', '.join(ok)}"
    )


if __name__ == "__main__":
    main()
