"""Accuracy and latency of every student in every precision, beside ``lraspp_mobilenet_v3_large`` in fp32.

    kdbench train --method baseline --dataset camvid --data-root data/camvid --seeds 0,1,2 --runs runs/students
    kdbench train --method baseline --student student_fast …            # the same seeds; and student_lite0
    python -m benchmarks.student_front --runs runs/students --data-root data/camvid

Accuracy is that of the exported files on the validation split, at the size of training, a file for each seed. Latency
is that of seed 0 exported at 512 x 512, image to mask, all contenders side by side in one run (``interleaved``); the
times over PyTorch are over the same network in eager mode behind torchvision's transforms. ``student_lite0_fast`` is
not trained: it takes the weights of ``student_lite0``. Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.backend_speedup import IMAGES, backend_call, score, usual_call
from benchmarks.interleaved import Contender, alternate, ratio_with_interval
from benchmarks.stale_results import REPOSITORY, RESULTS
from benchmarks.student_tables import over
from exporters.export_job import ExportJob
from exporters.proven_export import export_as
from exporters.quantise import calibration_images
from kdbench.comparison.numbers import fraction
from kdbench.comparison.seed_statistics import standard_error
from kdbench.data import SegmentationDataset, open_dataset
from kdbench.data.preprocessing import Size, parse_size, resize_image
from kdbench.machine.environment import environment
from kdbench.models.network import Network
from kdbench.models.registry import build_model, load_model
from kdbench.runs.checkpoints import save_checkpoint
from kdbench.runs.files import SCHEMA_VERSION, read_json, write_json
from kdbench.runs.folder import at_its_end
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import RunTree, sidecar_path

YARDSTICK = "lraspp_mobilenet_v3_large"
STUDENTS = {
    "student": "student", "student_fast": "student_fast", "student_lite0": "student_lite0",
    "student_lite0_fast": "student_lite0",
}  # fmt: skip
"""Network → the one whose training it takes its weights from."""
ENGINES = (("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "int8"))
USUAL = ("torch", "usual pipeline")

Engine = tuple[str, str]
"""Backend and precision."""
Key = tuple[str, str, str]
"""Network, backend and precision."""
Scores = dict[Key, dict[int, float]]
"""mIoU by seed."""


@dataclass(frozen=True)
class Data:
    """Real images: those that int8 ranges come from, and those that are scored."""

    calibration: list[np.ndarray[Any, Any]]
    validation: SegmentationDataset


def trained(runs: Path, dataset: str, seeds: Sequence[int]) -> Iterator[tuple[str, int, Path]]:
    """Network, seed, and the checkpoint whose weights it takes, of every baseline whose training ended."""
    tree = RunTree(runs, dataset)
    for variant in tree.trained_variants():
        for path in tree.of_variant(variant).seed_checkpoints("baseline"):
            sidecar = read_training_sidecar(sidecar_path(path), "kdbench train")
            if sidecar["seed"] in seeds and at_its_end(sidecar):
                for arch, source in STUDENTS.items():
                    if source == Network.recorded(sidecar).arch:
                        yield arch, sidecar["seed"], path


def export(
    arch: str, checkpoint: Path | None, tree: RunTree, data: Data, size: Size | None = None
) -> dict[Engine, Path]:
    """Engine → file of a network with a checkpoint's weights, or untrained ones.

    Args:
        size: of the input; None = that of training.
    """
    classes = data.validation.classes
    about: dict[str, Any] = {
        "arch": arch, "classes": list(classes), "palette": [list(c) for c in data.validation.palette],
    }  # fmt: skip
    torch.manual_seed(0)
    model = build_model(arch, len(classes))
    if checkpoint is None:
        about["size"] = list(size or ())
    else:
        source, sidecar = load_model(checkpoint, "kdbench train")
        model.load_state_dict(source.state_dict())
        about["size"] = sidecar["size"]
    save_checkpoint(tree.checkpoint("baseline"), model.state_dict(), about)
    engines = ENGINES[:1] if checkpoint is None else ENGINES
    with ExportJob(
        tree, "baseline", "mask", size, [data.validation[0]], data.calibration, allow_drift=True
    ) as job:  # fmt: skip
        return {engine: export_as(job, *engine) for engine in engines}


def accuracy(runs: Path, seeds: Sequence[int], data: Data, folder: Path, kept: Path) -> Scores:
    """Of every export of every student; ``kept`` holds what was measured of this code, before and now."""
    found: Scores = {}
    made_by = code_sha256()
    if kept.exists() and (before := read_json(kept, "python -m benchmarks.student_front")).get("code") == made_by:
        for key, values in before["scores"].items():
            arch, backend, precision = key.split()
            found[arch, backend, precision] = {int(seed): miou for seed, miou in values.items()}
    for arch, seed, checkpoint in trained(runs, data.validation.name, seeds):
        if all(seed in found.get((arch, *engine), {}) for engine in ENGINES):
            continue
        tree = RunTree(folder / f"{arch}-{seed}", data.validation.name)
        for engine, path in export(arch, checkpoint, tree, data).items():
            miou = score(engine[0], path, None, data.validation, 1)
            found.setdefault((arch, *engine), {})[seed] = miou
            print(f"{arch} seed {seed} {' '.join(engine)}: {miou:.4f}", flush=True)
        write_json(kept, {"schema_version": SCHEMA_VERSION, "code": made_by, "scores": joined(found)})
    return found


def code_sha256() -> str:
    """Of all sources that these figures depend on."""
    files = {path for pattern in RESULTS["student-front.json"].sources for path in REPOSITORY.glob(pattern)}
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


def joined(found: Mapping[Key, Any]) -> dict[str, Any]:
    """With keys that JSON takes."""
    return {" ".join(key): values for key, values in found.items()}


def latency(runs: Path, data: Data, folder: Path, arguments: argparse.Namespace) -> dict[Key, list[float]]:
    """Milliseconds of each block, all contenders side by side."""
    size = parse_size(arguments.size)
    images = np.stack([resize_image(data.validation[i].image, size) for i in range(IMAGES)])
    yardstick = export(YARDSTICK, None, RunTree(folder / YARDSTICK, data.validation.name), data, size)
    calls: dict[Key, Contender] = {
        (YARDSTICK, *engine): Contender(YARDSTICK, backend_call, engine[0], path, size, images, arguments.threads)
        for engine, path in yardstick.items()
    }
    for arch, _, checkpoint in trained(runs, data.validation.name, [0]):
        tree = RunTree(folder / f"{arch}-large", data.validation.name)
        files = export(arch, checkpoint, tree, data, size)
        usual = (tree.checkpoint("baseline"), images, arguments.threads)
        calls[arch, *USUAL] = Contender(f"{arch} {USUAL[0]}", usual_call, *usual)
        for engine, path in files.items():
            calls[arch, *engine] = Contender(
                f"{arch} {' '.join(engine)}", backend_call, engine[0], path, size, images, arguments.threads
            )
    found = alternate(list(calls.values()), arguments.blocks)
    for contender in calls.values():
        contender.stop()
    return {key: found[contender.name] for key, contender in calls.items()}


def rows_of(times: dict[Key, list[float]], scores: Scores) -> list[dict[str, Any]]:
    """A row for each network, backend and precision."""
    yardstick, rows = times[YARDSTICK, "onnx", "fp32"], []
    for (arch, backend, precision), blocks in times.items():
        row: dict[str, Any] = {
            "model": arch, "backend": backend, "precision": precision, "median_ms": statistics.median(blocks),
            "over_yardstick": ratio_with_interval(blocks, yardstick),
        }  # fmt: skip
        if usual := times.get((arch, *USUAL)):
            row["times_faster_than_torch"] = ratio_with_interval(usual, blocks)
        if precision == "int8":
            row["times_faster_than_fp32"] = ratio_with_interval(times[arch, backend, "fp32"], blocks)
        if (own := scores.get((arch, backend, precision))) is not None:
            others = {"student": scores["student", "onnx", "fp32"], "fp32": scores[arch, backend, "fp32"]}
            row |= {"seeds": list(own), "mious": list(own.values()), "miou": statistics.fmean(own.values())}
            for name, other in others.items():
                shared = [own[seed] - other[seed] for seed in own if seed in other]
                row[f"miou_over_{name}"] = statistics.fmean(shared) if shared else None
                row[f"miou_over_{name}_standard_error"] = standard_error(shared)
        rows.append(row)
    return rows


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each row."""
    lines = [
        f"{'network':<27}{'engine':<22}{'/ lraspp fp32':>15}{'x torch':>9}{'x fp32':>8}{'seeds':>7}{'mIoU':>8}"
        f"{'over student fp32':>22}{'over own fp32':>22}"
    ]

    def times(row: dict[str, Any], field: str) -> str:
        return f"{row[field][0]:.2f}" if field in row else "–"

    for row in rows:
        ratio, low, high = row["over_yardstick"]
        spread = f"{ratio:.3f} ±{(high - low) / 2:.3f}"
        lines.append(
            f"{row['model']:<27}{row['backend'] + ' ' + row['precision']:<22}{spread:>15}"
            f"{times(row, 'times_faster_than_torch'):>9}{times(row, 'times_faster_than_fp32'):>8}"
            f"{len(row.get('seeds', ())):>7}{fraction(row.get('miou')):>8}{over(row, 'student'):>22}"
            f"{over(row, 'fp32'):>22}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/students"))
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path, default=Path("data/camvid"))
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--size", default="512x512", help="of the timed exports")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument(
        "--scores", type=Path, default=Path("runs/student-front-scores.json"), help="accuracy that was measured before"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    train = open_dataset(arguments.dataset, "train", arguments.data_root)
    data = Data(
        [train[i].image for i in calibration_images(len(train))],
        open_dataset(arguments.dataset, "val", arguments.data_root),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scores = accuracy(arguments.runs, arguments.seeds, data, folder, arguments.scores)
        times = latency(arguments.runs, data, folder, arguments) if arguments.blocks else {}
    rows = rows_of(times, scores) if times else []
    report = {
        "schema_version": SCHEMA_VERSION, "benchmark": "student_front", "dataset": arguments.dataset,
        "size": arguments.size, "threads": arguments.threads, "rows": rows, "scores": joined(scores),
        "block_ms": joined(times), "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(f"{arguments.dataset} val; latency at {arguments.size}, batch 1, {arguments.threads} threads")
    print(table_of(rows))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
