"""What distillation is worth on CamVid, by the number of labels, on a street that training knows and on others.

    python -m benchmarks.label_study --data-root data/camvid                       # every setting, to the end
    python -m benchmarks.label_study --data-root data/camvid --settings quarter --minutes 7    # goes on when run again
    python -m benchmarks.label_study --score --json results/label-study.json

A setting is a student, a share of labels and a number of epochs; its teacher (EfficientNet-Lite2 with ImageNet weights)
learns from the same labels and sees twice the students' side. Each student is scored once, at the end of its training,
on val and on test, by drive, or in a fold on the drive that was held out, and a line of it is appended to the log. What
the log or the runs folder has is skipped, on any machine. The settings were fixed before anything was scored on test:
nothing here is chosen by it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.label_scores import FOLD, as_text, score
from kdbench.comparison.metrics import iou_per_class, mean_iou
from kdbench.data.base import SegmentationDataset
from kdbench.data.camvid import open_camvid
from kdbench.data.held_out import hold_out
from kdbench.data.labels import IGNORE
from kdbench.data.preprocessing import Size, resize_image
from kdbench.machine.environment import environment
from kdbench.models.deployed import deployable
from kdbench.models.registry import load_model
from kdbench.runs.files import sha256, write_json
from kdbench.runs.tree import RunTree
from trainers.methods import needs_teacher
from trainers.network_recipe import StudentRecipe
from trainers.precision import has_bf16
from trainers.recipe import Recipe, load_recipe
from trainers.teacher import teacher_is_ready
from trainers.train import Data, TrainingJob, student_folder, train

METHODS = ("baseline", "response", "feature", "dist", "imitation")
SCORED_AT_ONCE = 16
NEVER = 10_000
"""Epochs between validations: the last epoch's is the only one."""


@dataclass(frozen=True)
class Setting:
    """One row of the study's plan.

    Attributes:
        recipe: the fields that differ from ``RECIPE``; of its ``teacher`` those alone that differ.
        hold_out: the drive that a fold is scored on; None = train and val as they are, scored on val and test.
        after: the setting whose `feature` student of the same seed a student starts from.
    """

    name: str
    recipe: dict[str, Any]
    hold_out: str | None = None
    after: str | None = None

    def without(self, drive: str) -> Setting:
        """The fold that is trained on the other drives of train and val together, and scored on this one."""
        return Setting(f"{self.name}{FOLD}{drive}", self.recipe, drive)


RECIPE = "camvid-imagenet"
LITE0 = {"arch": "student_lite0"}
WHOLE = (
    Setting("quarter", {"labelled": 0.25, "epochs": 104}),
    Setting("all", {"epochs": 104}),
    Setting("sixteenth", {"labelled": 1 / 16, "epochs": 104}),
    Setting("all-lite0", {"student": LITE0 | {"weights": "imagenet"}, "lr": 1e-3, "epochs": 48}),
    Setting("quarter-long", {"labelled": 0.25, "epochs": 208}),
    Setting("quarter-360", {"labelled": 0.25, "epochs": 104, "size": (360, 480)}),
    Setting("quarter-teacher-180", {"labelled": 0.25, "epochs": 104, "teacher": {"size": None}}),
    Setting("sixteenth-views", {"labelled": 1 / 16, "epochs": 104, "views": 10}),
    Setting("eighth-views", {"labelled": 1 / 8, "epochs": 104, "views": 10}),
    Setting("quarter-views", {"labelled": 0.25, "epochs": 104, "views": 10}),
    Setting("half-views", {"labelled": 0.5, "epochs": 104, "views": 10}),
    Setting("quarter-cutmix", {"labelled": 0.25, "epochs": 104, "cutmix": 0.5}),
    Setting("all-cutmix", {"epochs": 104, "cutmix": 0.5}),
    Setting("all-lite0-views", {"student": LITE0 | {"weights": "imagenet"}, "lr": 1e-3, "epochs": 48, "views": 10}),
    Setting("all-lite0-scratch-views", {"student": LITE0, "epochs": 104, "views": 10}),
    Setting("all-cutmix-views", {"epochs": 104, "views": 10, "cutmix": 0.5}),
    Setting("all-cutmix-features-views", {"epochs": 52, "views": 10, "cutmix": 0.5, "alpha": 0.0}),
    Setting("all-cutmix-task-views", {"epochs": 52, "views": 10, "cutmix": 0.5}, after="all-cutmix-features-views"),
)
"""22 steps of 16 an epoch: 2,288 steps, as many images as the first look at these settings had.

Those of views are for processors: views, and what the teacher says of them, are made once for all methods and seeds.
A teacher learns without CutMix, so that settings share it. Features first and the task after, as in GKD (arXiv
2603.02554), is two of them with half of the steps each: method `feature`, then `baseline` from its students.
"""
DRIVES = ("0001TP", "0006R0", "0016E5")
FOLDED = ("quarter", "all", "quarter-views")
SETTINGS = (*WHOLE, *(setting.without(drive) for setting in WHOLE if setting.name in FOLDED for drive in DRIVES))


def recipe_of(setting: Setting, device: str, epochs: int | None) -> Recipe:
    """Students in bf16 on a GPU; the teacher's passes, which only have to be read, where a processor has it too."""
    students = "bf16" if device == "cuda" else "fp32"
    teacher = "bf16" if device == "cuda" or has_bf16(torch.device("cpu")) else "fp32"
    recipe = load_recipe(RECIPE, {"precision": students, "teacher_precision": teacher, "validate_every": NEVER})
    fields = dict(setting.recipe)
    if "student" in fields:
        fields["student"] = StudentRecipe.model_validate(fields["student"])
    if "teacher" in fields:
        fields["teacher"] = recipe.teacher.model_copy(update=fields["teacher"])
    if epochs is not None:
        fields |= {"epochs": epochs, "teacher": recipe.teacher.model_copy(update={"epochs": epochs})}
    return recipe.model_copy(update=fields)


@dataclass
class ScoredSplit:
    """A split on the device, to be scored many times.

    Attributes:
        images: N x H x W x 3 uint8 at the student's size.
        labels: N x h x w uint8, 255 = ignore.
        drives: what stands before "_" in each image's name.
    """

    images: Tensor
    labels: Tensor
    drives: list[str]


def open_scored(dataset: SegmentationDataset, size: Size, device: torch.device) -> ScoredSplit:
    samples = [dataset[index] for index in range(len(dataset))]
    images = torch.from_numpy(np.stack([resize_image(sample.image, size) for sample in samples]))
    labels = torch.from_numpy(np.stack([sample.label for sample in samples]))
    return ScoredSplit(images.to(device), labels.to(device), [sample.name.split("_")[0] for sample in samples])


@torch.inference_mode()
def confusions(model: Any, split: ScoredSplit, classes: int) -> NDArray[np.int64]:
    """Images x C x C counts at the labels' resolution, those of ``kdbench.comparison.evaluate``, by batches."""
    module = deployable(model, "mask").to(split.images.device)
    found = []
    for start in range(0, len(split.images), SCORED_AT_ONCE):
        masks = module(split.images[start : start + SCORED_AT_ONCE])
        labels = split.labels[start : start + SCORED_AT_ONCE]
        predicted = F.interpolate(masks[:, None].float(), size=labels.shape[1:], mode="nearest-exact")[:, 0].long()
        image = torch.arange(len(labels), device=labels.device)[:, None, None]
        cells = (image * classes + labels.long()) * classes + predicted
        counted = torch.bincount(cells[labels != IGNORE], minlength=len(labels) * classes**2)
        found.append(counted.reshape(len(labels), classes, classes).cpu().numpy())
    return np.concatenate(found)


def by_drive(counts: NDArray[np.int64], split: ScoredSplit) -> dict[str, Any]:
    drives = np.array(split.drives)
    return {
        "miou": mean_iou(counts.sum(0)),
        "iou_per_class": [None if np.isnan(v) else round(float(v), 6) for v in iou_per_class(counts.sum(0))],
        "by_drive": {drive: mean_iou(counts[drives == drive].sum(0)) for drive in sorted(set(split.drives))},
    }


def run_setting(setting: Setting, arguments: argparse.Namespace, log: Path) -> None:
    device = torch.device(arguments.device)
    recipe = recipe_of(setting, device.type, arguments.epochs)
    tree = RunTree(arguments.runs / setting.name, "camvid")
    splits = open_splits(setting, arguments.data_root)
    if setting.hold_out is None:
        borrow_teacher(tree, recipe, arguments.runs)
    names = [name for name in splits if name != "train"]
    scored: dict[str, ScoredSplit] = {}
    todo = [s for s in arguments.seeds if any((setting.name, m, s) not in read_log(log) for m in arguments.methods)]
    if not todo:
        return
    taught = any(needs_teacher(method) for method in arguments.methods)
    for seed in todo:
        start = recipe if setting.after is None else started_from(recipe, arguments.runs / setting.after, seed)
        job = TrainingJob(
            tree=tree, recipe=start, methods=arguments.methods, match=None,
            train_teacher=taught and not teacher_is_ready(tree, recipe), seeds=(seed,), device=device,
            weights=recipe.teacher.weights, resume=True,
            about={"dataset": "camvid", "data_root": arguments.data_root.as_posix()},
        )  # fmt: skip
        train(job, Data(splits["train"], splits[names[0]]))
        for name in names:
            scored.setdefault(name, open_scored(splits[name], recipe.size, device))
        for method in arguments.methods:
            if (setting.name, method, seed) in read_log(log):
                continue
            checkpoint = student_folder(job, method, seed).checkpoint
            append(log, setting, method, seed, checkpoint, scored)
    teacher = tree.checkpoint("teacher")
    if teacher.exists() and (setting.name, "teacher", 0) not in read_log(log):
        at_its_size = {n: open_scored(splits[n], recipe.view_size, device) for n in names}
        append(log, setting, "teacher", 0, teacher, at_its_size)


def open_splits(setting: Setting, root: Path) -> dict[str, SegmentationDataset]:
    """train, and what students are scored on: val and test, or the drive that is held out."""
    train, val = (open_camvid(root, name) for name in ("train", "val"))
    if setting.hold_out is None:
        return {"train": train, "val": val, "test": open_camvid(root, "test")}
    kept, held = hold_out(train, val, setting.hold_out)
    return {"train": kept, "new_scenes": held}


def started_from(recipe: Recipe, runs: Path, seed: int) -> Recipe:
    """With the weights that `feature` gave the student of this seed in another setting."""
    weights = RunTree(runs, "camvid").folder("feature", None if seed == recipe.seed else seed).checkpoint
    return recipe.model_copy(update={"student": recipe.student.model_copy(update={"weights": weights.as_posix()})})


def borrow_teacher(tree: RunTree, recipe: Recipe, runs: Path) -> None:
    """Take another setting's finished teacher where it learnt from the same labels by the same recipe."""
    own = tree.method_dir("teacher")
    if own.exists():
        return
    for other in WHOLE:
        there = RunTree(runs / other.name, "camvid").folder("teacher")
        finished = there.finished("benchmarks.label_study")
        if finished is None:
            continue
        changed = {text.split()[0] for text in recipe.for_teacher().changes_since(finished["recipe"])}
        if not changed - {"student", "seed", "alpha"}:
            shutil.copytree(there.path, own)
            return


def append(
    log: Path, setting: Setting, method: str, seed: int, checkpoint: Path, scored: dict[str, ScoredSplit]
) -> None:
    model, sidecar = load_model(checkpoint, "benchmarks.label_study")
    classes = len(sidecar["classes"])
    entry = {
        "setting": setting.name, "method": method, "seed": seed,
        **{name: by_drive(confusions(model, split, classes), split) for name, split in scored.items()},
        "labelled": sidecar.get("labelled_images", sidecar["train_images"]), "steps": sidecar["steps"],
        "train_seconds": sidecar["train_seconds"], "recipe": sidecar["recipe"], "sha256": sha256(checkpoint),
        "environment": environment(),
    }  # fmt: skip
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    said = ", ".join(f"{name} {entry[name]['miou']:.4f}" for name in scored)
    print(f"{setting.name} {method} seed {seed}: {said}", flush=True)


def read_log(log: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return {(entry["setting"], entry["method"], entry["seed"]): entry for entry in map(json.loads, lines)}


def stop_after(minutes: float) -> None:
    """End the process as Ctrl-C would, so that a later run goes on."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ",".join(setting.name for setting in SETTINGS)
    parser.add_argument("--data-root", type=Path, default=Path("data/camvid"))
    parser.add_argument("--settings", type=lambda text: text.split(","), default=names, help=f"of {names}")
    parser.add_argument("--methods", type=lambda text: tuple(text.split(",")), default=",".join(METHODS))
    parser.add_argument("--seeds", type=lambda text: tuple(map(int, text.split(","))), default="3,4,5")
    parser.add_argument("--runs", type=Path, default=Path("runs/label-study"))
    parser.add_argument("--log", type=Path, default=Path("results/label-study.jsonl"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--epochs", type=int, help="of every training; to try the script")
    parser.add_argument("--minutes", type=float, help="stop after these; the same line goes on")
    parser.add_argument("--score", action="store_true", help="print what the log holds")
    parser.add_argument("--json", type=Path, help="with --score: also write it to this file")
    arguments = parser.parse_args()
    if arguments.score:
        report = score(list(read_log(arguments.log).values()))
        print(as_text(report))
        if arguments.json:
            write_json(arguments.json, {**report, "environment": environment()})
        return
    known = {setting.name: setting for setting in SETTINGS}
    if wrong := [name for name in arguments.settings if name not in known]:
        raise SystemExit(f"--settings: got '{wrong[0]}', expected some of {names}")
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    if arguments.minutes:
        stop_after(arguments.minutes)
    started = time.monotonic()
    try:
        for name in arguments.settings:
            run_setting(known[name], arguments, arguments.log)
    except KeyboardInterrupt:
        print(f"stopped after {time.monotonic() - started:.0f} s: run the same line again", file=sys.stderr)
        raise SystemExit(75) from None
    print(f"done in {time.monotonic() - started:.0f} s: now --score")


if __name__ == "__main__":
    main()
