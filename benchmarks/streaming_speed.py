"""A training split that no memory holds: how soon it trains, how fast, and what it takes.

    python -m benchmarks.streaming_speed --data-root data/camvid --json results/streaming-speed.json

The split has 20,000 names over 200 different files of 1024 x 2048 (CamVid's images, enlarged; the other names are hard
links). Two things are measured. Start: seconds from ``kdbench train`` to the end of its first step, in a process of its
own, with nothing known of the data and again with what ``data.json`` then keeps. Rate: steps of images that stream
against steps of the same images in memory, in turns: of three students and `fpn_resnet18`, their teacher, beside
which decoding is little, and of the baseline alone, which decoding slows where it has no core of its own. Peak memory
is that of the training process. Prints one line each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from benchmarks.interleaved import Contender, alternate, ratio_with_interval
from kdbench.data import open_dataset
from kdbench.data.camvid import CLASSES
from kdbench.data.preprocessing import resize_image, resize_label
from kdbench.machine.environment import environment
from kdbench.models.registry import build_model
from kdbench.runs.files import write_json
from kdbench.runs.tree import RunTree
from trainers.batches import TrainingBatches
from trainers.images import BYTES_PER_PIXEL, Beside, TrainingImages
from trainers.recipe import Recipe
from trainers.steps import make_steps
from trainers.train import make_arm

SIZE = (1024, 2048)
"""Of the files, as Cityscapes has them."""
NAMES, FILES, SCORED = 20_000, 200, 8
TRAINED = (512, 1024)
RATES = {"three students and their teacher": ("baseline", "response", "feature"), "the baseline alone": ("baseline",)}
"""What is trained in the steps that are timed."""
TEACHER = "fpn_resnet18"
BATCH = 2
STEPS = 5
"""Steps of a start, after which it is interrupted."""


def make_split(source: Path, root: Path) -> int:
    """Write the data in the layout ``folder``; bytes on disk."""
    dataset = open_dataset("camvid", "train", source)
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (root / kind / split).mkdir(parents=True)
    for index in range(FILES):
        sample = dataset[index]
        Image.fromarray(resize_image(sample.image, SIZE)).save(root / "images/train" / f"{index:05d}.png")
        Image.fromarray(resize_label(sample.label, SIZE)).save(root / "masks/train" / f"{index:05d}.png")
    for kind in ("images", "masks"):
        files = [root / kind / "train" / f"{index:05d}.png" for index in range(FILES)]
        for index in range(FILES, NAMES):
            os.link(files[index % FILES], root / kind / "train" / f"{index:05d}.png")
        for index in range(SCORED):  # of other images: copies of training images are a fault
            sample = dataset[FILES + index]
            array = sample.image if kind == "images" else sample.label
            Image.fromarray(array).save(root / kind / "val" / f"val{index}.png")
    return sum(file.stat().st_size for file in (root / "images/train").iterdir() if int(file.stem) < FILES) + sum(
        file.stat().st_size for file in (root / "masks/train").iterdir() if int(file.stem) < FILES
    )


def start(data: Path, runs: Path) -> dict[str, float]:
    """What ``kdbench train`` takes to its first step, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streaming_speed", "--child", str(runs), "--data-root", str(data)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(done.stdout + done.stderr)
    found: dict[str, float] = json.loads(lines[-1])
    return found


def train_a_little(data: Path, runs: Path) -> None:
    """Be ``kdbench train``, and print when its first steps ended."""
    from kdbench.cli import main
    from trainers.steps import Steps

    own, ended = Steps.run, list[float]()
    born = psutil.Process().create_time()

    def counted(self: Steps, *arguments: Any) -> None:
        own(self, *arguments)
        ended.append(time.time() - born)
        if len(ended) == STEPS:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(json.dumps({"first_step_s": ended[0], "steps_s": ended[-1] - ended[0], "peak_gib": peak}), flush=True)
            os._exit(0)

    Steps.run = counted  # type: ignore[method-assign, assignment]
    height, width = TRAINED
    recipe = runs.parent / "streaming.toml"
    recipe.write_text("class_weights = true\njitter = 0.2\nscale_min = 0.6\nscale_max = 1.8\n", encoding="utf-8")
    sys.argv = [
        "kdbench", "train", "--method", "baseline", "--dataset", "folder", "--data-root", str(data), "--recipe",
        str(recipe), "--size", f"{height}x{width}", "--batch-size", str(BATCH), "--epochs", "1", "--runs", str(runs),
        "--device", "cpu",
    ]  # fmt: skip
    main()


def open_steps(data: Path, methods: tuple[str, ...], streams: bool, folder: Path) -> Callable[[int], Any]:
    """A training step of the methods side by side, on images that stream, or that are in memory."""
    train = open_dataset("folder", "train", data)
    recipe = Recipe.model_validate(
        {"size": TRAINED, "batch_size": BATCH, "jitter": 0.2, "scale_min": 0.6, "scale_max": 1.8, "images": FILES}
    )
    whole = 2 * FILES * TRAINED[0] * TRAINED[1] * BYTES_PER_PIXEL
    images = TrainingImages(train, TRAINED, FILES, torch.device("cpu"), Beside(memory=0 if streams else whole))
    batches = TrainingBatches(images, recipe)
    classes, teacher = len(train.classes), None
    if len(methods) > 1:
        teacher = build_model(TEACHER, classes).eval().requires_grad_(False)
    tree = RunTree(folder, "speed")
    arms = [
        make_arm(method, build_model("student", classes), tree.checkpoint(method), {}, batches, teacher)
        for method in methods
    ]
    steps = make_steps(arms, teacher, batches)
    for arm in arms:
        arm.objective.train()

    def endless() -> Iterator[Any]:
        epoch = 0
        while True:
            yield from batches.epoch(epoch)
            epoch += 1

    stream = endless()
    return lambda _: steps.run(arms, next(stream))


def rates(data: Path, folder: Path, blocks: int) -> list[dict[str, Any]]:
    rows = []
    for name, methods in RATES.items():
        contenders = [
            Contender("streams", open_steps, data, methods, True, folder / "streams"),
            Contender("memory", open_steps, data, methods, False, folder / "memory"),
        ]
        found = alternate(contenders, blocks)
        for contender in contenders:
            contender.stop()
        ratio, low, high = ratio_with_interval(found["memory"], found["streams"])
        rows.append(
            {"trained": name, "step_rate_over_memory": ratio, "ci95": [low, high], "blocks": blocks, "block_ms": found}
        )
        print(f"{name}: {ratio:.3f} of the step rate in memory (95% {low:.3f}–{high:.3f})", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data/camvid"))
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        train_a_little(arguments.data_root, arguments.child)
        return
    with tempfile.TemporaryDirectory(prefix="kdbench-streaming-") as made:
        folder = Path(made)
        disk = make_split(arguments.data_root, folder / "data")
        whole = NAMES * TRAINED[0] * TRAINED[1] * BYTES_PER_PIXEL
        starts = {}
        for name in ("nothing known", "known"):
            starts[name] = start(folder / "data", folder / "runs")
            print(f"start, {name}: " + ", ".join(f"{k} {v:.1f}" for k, v in starts[name].items()), flush=True)
            shutil.rmtree(folder / "runs/folder/baseline", ignore_errors=True)
        rows = rates(folder / "data", folder, arguments.blocks)
    report = {
        "schema_version": 1, "environment": environment(), "names": NAMES, "files": FILES, "file_size": list(SIZE),
        "trained_size": list(TRAINED), "batch_size": BATCH, "disk_bytes": disk, "memory_for_all_bytes": whole,
        "start": starts, "rates": rows,
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(json.dumps({"disk_gib": round(disk / 2**30, 2), "memory_for_all_gib": round(whole / 2**30, 1)}))


if __name__ == "__main__":
    main()
