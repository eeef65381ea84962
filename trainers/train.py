"""``kdbench train``: open the data, make or read the teacher, and train the methods asked for, seed by seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.artifacts import TIME_MATCHED, RunTree, read_json, sidecar_path
from kdbench.data import SegmentationDataset
from kdbench.environment import environment
from kdbench.errors import BadInput, Missing
from kdbench.models.deploy import build_model, load_model
from kdbench.models.segmentation import SegmentationModel
from trainers.arm import Arm
from trainers.batches import TrainingBatches
from trainers.loop import save_arm, train_arms, validate
from trainers.methods import Objective, needs_teacher
from trainers.recipe import Recipe
from trainers.time_match import time_matched
from trainers.weights import load_weights


@dataclass(frozen=True)
class TrainingJob:
    """Everything that one call of ``kdbench train`` needs besides the data.

    Attributes:
        methods: students to train side by side, possibly none; ``baseline-long`` comes after the others.
        match: the method whose wall-clock ``baseline-long`` gets, or None for the slowest.
        train_teacher: train it anew; when a method needs it and it is missing, that is an error without this.
        seeds: students of the recipe's own seed lie in <method>/, those of others in <method>/seed-<n>/.
        weights: a file or torchvision weight name that the teacher starts from, or None.
        about: dataset fields that go into every sidecar (how to open it again).
    """

    tree: RunTree
    recipe: Recipe
    methods: tuple[str, ...]
    match: str | None
    train_teacher: bool
    seeds: tuple[int, ...]
    device: torch.device
    weights: str | None
    resume: bool
    about: dict[str, Any]


def train(job: TrainingJob, train_set: SegmentationDataset, validation: SegmentationDataset) -> list[Path]:
    """Run the job and return the checkpoints, those that ``--resume`` found finished included.

    Raises:
        Missing: a method needs a teacher and there is none. RunFailed: see ``train_arms``.
    """
    about = {
        **job.about,
        "classes": list(train_set.classes),
        "palette": [list(color) for color in train_set.palette],
        "train_images": min(len(train_set), job.recipe.images or len(train_set)),
        "val_images": len(validation),
        "environment": environment(),  # now: the checkout may move on while a training runs
    }
    made = []
    if job.train_teacher:
        train_the_teacher(job, about, train_set, validation)
        made.append(job.tree.checkpoint("teacher"))
    teacher, teacher_sidecar = None, None
    if any(needs_teacher(method) for method in job.methods):
        teacher, teacher_sidecar = open_teacher(job, len(train_set.classes))
    side_by_side = tuple(method for method in job.methods if method != TIME_MATCHED)
    if side_by_side:
        title = ", ".join(side_by_side)
        made += train_students(
            job, side_by_side, job.recipe, about, train_set, validation, title, teacher, teacher_sidecar
        )
    if TIME_MATCHED in job.methods:
        recipe, matched = time_matched(job.tree, job.recipe, job.match)
        title = f"{TIME_MATCHED}, {recipe.epochs} epochs in the time of {matched['method']}'s {matched['epochs']}"
        about = {**about, "time_matched": matched}
        made += train_students(job, (TIME_MATCHED,), recipe, about, train_set, validation, title)
    return made


def train_students(
    job: TrainingJob,
    methods: tuple[str, ...],
    recipe: Recipe,
    about: dict[str, Any],
    train_set: SegmentationDataset,
    validation: SegmentationDataset,
    title: str,
    teacher: SegmentationModel | None = None,
    teacher_sidecar: dict[str, Any] | None = None,
) -> list[Path]:
    """Train the methods side by side, seed by seed, and return their checkpoints."""
    made = []
    for seed in job.seeds:
        seeded = recipe.model_copy(update={"seed": seed})
        batches = TrainingBatches(train_set, seeded, job.device)
        weights = batches.class_frequencies() if recipe.class_weights else None
        arms = []
        for method in methods:
            folder = job.tree.method_dir(method) / ("" if seed == recipe.seed else f"seed-{seed}")
            student_about = {**about, "arch": "student"}
            if needs_teacher(method):
                student_about["teacher"] = teacher_sidecar
            torch.manual_seed(seed)  # every arm starts from the same student
            student = build_model("student", len(train_set.classes))
            arms.append(
                make_arm(
                    method, student, seeded, folder / "student.safetensors", student_about, batches, weights, teacher
                )
            )
        run(arms, job, teacher, batches, validation, f"seed {seed}: {title}")
        made += [arm.checkpoint for arm in arms]
    return made


def train_the_teacher(
    job: TrainingJob, about: dict[str, Any], train_set: SegmentationDataset, validation: SegmentationDataset
) -> None:
    recipe = job.recipe.for_teacher().model_copy(update={"seed": job.recipe.seed})
    torch.manual_seed(recipe.seed)
    arch = job.recipe.teacher.arch
    model = build_model(arch, len(train_set.classes))
    complete = job.weights is not None and load_weights(model, arch, job.weights)
    if complete:
        # Nothing is left to learn: weights for just these classes are the teacher.
        recipe = recipe.model_copy(update={"epochs": 0})
    batches = TrainingBatches(train_set, recipe, job.device)
    weights = batches.class_frequencies() if recipe.class_weights else None
    about = {**about, "arch": arch, "weights": job.weights}
    arm = make_arm("teacher", model, recipe, job.tree.checkpoint("teacher"), about, batches, weights)
    if complete:
        save_arm(arm, validate(arm, validation))
    else:
        run([arm], job, None, batches, validation, f"teacher {arch}")


def make_arm(
    method: str,
    model: SegmentationModel,
    recipe: Recipe,
    checkpoint: Path,
    about: dict[str, Any],
    batches: TrainingBatches,
    class_weights: Tensor | None,
    teacher: SegmentationModel | None = None,
) -> Arm:
    channels = teacher.tap_channels if teacher is not None else None
    objective = Objective(model, method, recipe, channels, class_weights)
    objective.to(batches.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    return Arm(method, objective, recipe, checkpoint, about, batches.steps_per_epoch)


def run(
    arms: list[Arm],
    job: TrainingJob,
    teacher: SegmentationModel | None,
    batches: TrainingBatches,
    validation: SegmentationDataset,
    title: str,
) -> None:
    """Train the arms, with ``--resume`` those that are not finished."""
    for arm in arms:
        if job.resume:
            arm.load_state()
        else:
            arm.state_file.unlink(missing_ok=True)
    if job.resume:
        arms = [arm for arm in arms if arm.state_file.exists() or not is_finished(arm.checkpoint, arm.recipe)]
    if arms:
        train_arms(arms, teacher, batches, validation, title)


def is_finished(checkpoint: Path, recipe: Recipe) -> bool:
    """Whether a checkpoint holds the last epoch of just this recipe."""
    if not (checkpoint.exists() and sidecar_path(checkpoint).exists()):
        return False
    sidecar = read_json(sidecar_path(checkpoint), "kdbench train")
    return sidecar["epoch"] == sidecar["epochs"] and not recipe.changes_since(sidecar["recipe"])


def teacher_is_ready(tree: RunTree, recipe: Recipe) -> bool:
    """Whether ``--method all`` can keep the teacher that is there: finished, and of the recipe's architecture."""
    path = tree.checkpoint("teacher")
    if not (path.exists() and sidecar_path(path).exists()):
        return False
    sidecar = read_json(sidecar_path(path), "kdbench train --method teacher")
    return (sidecar["epoch"], sidecar["arch"]) == (sidecar["epochs"], recipe.teacher.arch)


def open_teacher(job: TrainingJob, classes: int) -> tuple[SegmentationModel, dict[str, Any]]:
    """The trained teacher, frozen, and what a student's sidecar says of it."""
    path = job.tree.checkpoint("teacher")
    command = f"kdbench train --method teacher --dataset {job.tree.dataset}"
    if not path.exists():
        raise Missing(f"no teacher '{path}', which {', '.join(job.methods)} would learn from: make it with `{command}`")
    model, sidecar = load_model(path, command)
    if len(sidecar["classes"]) != classes:
        raise BadInput(
            f"teacher '{path}' knows {len(sidecar['classes'])} classes, the dataset has {classes}: "
            f"make it again with `{command}`"
        )
    model.requires_grad_(False).to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, {key: sidecar[key] for key in ("arch", "params", "miou", "sha256", "epochs")}
