"""What ``kdbench train`` does: open data and recipe, train, and say what came of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kdbench.cli.options import choose_device, choose_seeds, trust_named
from kdbench.data.open import how_to_open, join_recorded
from kdbench.errors import BadInput
from kdbench.methods.base import METHODS, distilled_methods
from kdbench.runs.files import read_json
from kdbench.runs.tree import RunTree, sidecar_path

if TYPE_CHECKING:
    from trainers.recipe import Recipe
    from trainers.time_match import Stage
    from trainers.train import Data, TrainingJob

GO_ON = "go on with the same command and --resume"
"""What to do after an interruption."""


@dataclass(frozen=True)
class TrainFlags:
    """What a person asks ``kdbench train`` for, in its flags' words; what is None the recipe says.

    Attributes:
        recipe: a recipe's name or file.
        overrides: fields of the recipe that flags set, None = not given.
        match_time: every method gets the wall-clock of the slowest; the teacher is that of the same steps.
        keep_teacher: train one only where there is none to keep.
        hold_out: a recording that training does not see, and is scored on.
        folds: each recording held out in turn.
        go_on: what to do after an interruption.
    """

    methods: tuple[str, ...]
    recipe: str
    overrides: dict[str, Any] = field(default_factory=dict)
    size: str | None = None
    teacher: str | None = None
    match: str | None = None
    match_time: bool = False
    weights: str | None = None
    seeds: str | None = None
    device: str = "auto"
    resume: bool = False
    sbd: bool = False
    download: bool = False
    keep_teacher: bool = False
    deterministic: bool = False
    accept_data: bool = False
    unlabelled: Path | None = None
    hold_out: str | None = None
    folds: bool = False
    overwrite: bool = False
    go_on: str = GO_ON


@dataclass(frozen=True)
class DataAsked:
    """Which data a training is to have.

    Attributes:
        root: the dataset's folder.
        sbd, download: of ``open_dataset``.
        unlabelled: a folder of images without labels.
        hold_out: the recording that is held out, and scored on in place of the validation split.
        accept: train in spite of problems.
    """

    root: Path | None
    sbd: bool = False
    download: bool = False
    unlabelled: Path | None = None
    hold_out: str | None = None
    accept: bool = False


def open_data(dataset: str, asked: DataAsked) -> Data:
    """Both splits, and the images without labels.

    Raises:
        BadInput: see ``open_dataset``, ``hold_out`` and ``open_unlabelled``.
    """
    from kdbench.data import open_dataset
    from kdbench.data.held_out import hold_out
    from kdbench.data.unlabelled import open_unlabelled
    from trainers.train import Data

    train = open_dataset(dataset, "train", asked.root, sbd=asked.sbd, download=asked.download)
    validation = open_dataset(dataset, "val", asked.root)
    if asked.hold_out is not None:
        train, validation = hold_out(train, validation, asked.hold_out)
    return Data(train, validation, open_unlabelled(asked.unlabelled, train, validation, asked.root))


def check_data(tree: RunTree, data: Data, asked: DataAsked) -> dict[str, Any]:
    """Look at a sample of the data; what a sidecar says of them.

    Raises:
        BadInput: see ``require_sound``.
    """
    from kdbench.data.check import require_sound
    from kdbench.data.remembered import Remembered

    accepted = require_sound(*data, accept=asked.accept, remembered=Remembered(tree.data_file))
    further = {"sbd": True} if asked.sbd else {}
    folder = {} if asked.unlabelled is None else {"unlabelled": asked.unlabelled.as_posix()}
    held = {} if asked.hold_out is None else {"hold_out": asked.hold_out}
    return {**how_to_open(tree.dataset, asked.root), **further, **folder, **held, **accepted}


def run_training(tree: RunTree, flags: TrainFlags, data_root: Path | None) -> list[dict[str, Any]]:
    """Open data and recipe, and train."""
    from kdbench.data.held_out import groups_of
    from kdbench.data.preprocessing import parse_size
    from trainers.processes import is_main, joined_processes, launcher_precision
    from trainers.recipe import load_recipe

    check_runs(tree)
    for arch in filter(None, (flags.overrides.get("student"), flags.teacher)):
        trust_named(arch)
    if flags.weights is not None and "teacher" not in flags.methods:
        raise BadInput(
            f"--teacher-weights: got '{flags.weights}', but they are the teacher's start: add teacher to --method"
        )
    if flags.match_time:
        flags = replace(flags, methods=methods_of_equal_time(flags))
    if flags.match is not None:
        if flags.match not in distilled_methods():
            raise BadInput(f"--match: got '{flags.match}', expected one of {', '.join(distilled_methods())}")
        matched = [declared.name for declared in METHODS if declared.time_matched]
        if not set(matched) & set(flags.methods):
            expected = " or ".join(matched)
            raise BadInput(
                f"--match {flags.match}: got --method {','.join(flags.methods)}, expected {expected} among them"
            )
    overrides = dict(flags.overrides)
    if flags.size is not None:
        overrides["size"] = parse_size(flags.size)
    if precision := launcher_precision():
        overrides["precision"] = precision
    recipe = load_recipe(flags.recipe, overrides, flags.teacher)
    asked = DataAsked(data_root, flags.sbd, flags.download, flags.unlabelled, flags.hold_out, flags.accept_data)
    if not flags.folds:
        return train_on(tree, recipe, flags, asked)
    from trainers.recipe import variant_name

    if flags.hold_out is not None:
        raise BadInput(f"--folds: got --hold-out {flags.hold_out} as well, expected one of them: leave the other out")
    whole = open_data(tree.dataset, asked)
    models, groups = [], groups_of(whole.train, whole.validation)
    folders: dict[str | None, str] = {}
    for group in groups:
        variant = variant_name(tree.dataset, recipe, flags.unlabelled, group)
        if variant in folders:
            raise BadInput(
                f"--folds: recordings '{folders[variant]}' and '{group}' have one folder, '{variant}', expected names "
                "that differ in letters, digits, dots or underscores: give group = another pattern"
            )
        folders[variant] = group
    with joined_processes(choose_device(flags.device)):
        for number, group in enumerate(groups, start=1):
            if is_main():
                print(f"fold {number} of {len(groups)}: {group} is held out")
            models += train_on(tree, recipe, flags, replace(asked, hold_out=group))
    return models


def train_on(tree: RunTree, recipe: Recipe, flags: TrainFlags, asked: DataAsked) -> list[dict[str, Any]]:
    """Train on the data that are asked for, in the variant that they make."""
    import torch

    from trainers.methods import needs_teacher
    from trainers.network_recipe import NO_WEIGHTS
    from trainers.recipe import variant_name
    from trainers.teacher import require_teacher_arch, teacher_is_ready
    from trainers.time_match import equal_time
    from trainers.train import TrainingJob

    named = (tree.dataset, recipe, asked.unlabelled, asked.hold_out)
    same_steps = tree.of_variant(variant_name(*named))
    tree = tree.of_variant(variant_name(*named, match_time=flags.match_time))
    weights = recipe.teacher.weights if flags.weights is None else flags.weights
    if flags.teacher is not None and "teacher" not in flags.methods and any(map(needs_teacher, flags.methods)):
        require_teacher_arch(tree, recipe.teacher.network)
    chosen_seeds = choose_seeds(flags.seeds) if flags.seeds else (recipe.seed,)
    device = torch.device(choose_device(flags.device))
    stages: list[Stage] = []
    if flags.match_time:
        recipe, stages = equal_time(same_steps, recipe, flags.methods, device.type)
    data = open_data(tree.dataset, asked)
    about = check_data(tree, data, asked)
    reuse = flags.keep_teacher and flags.weights is None and teacher_is_ready(tree, recipe)
    job = TrainingJob(
        tree=tree,
        recipe=recipe,
        methods=tuple(m for m in flags.methods if m != "teacher"),
        match=flags.match,
        train_teacher="teacher" in flags.methods and not reuse,
        seeds=chosen_seeds,
        device=device,
        weights=None if weights == NO_WEIGHTS else weights,
        resume=flags.resume,
        overwrite=flags.overwrite,
        about=about,
        deterministic=flags.deterministic,
        stages=tuple(stages),
    )
    return execute(job, data, flags.go_on)


def methods_of_equal_time(flags: TrainFlags) -> tuple[str, ...]:
    """The students that ``--match-time`` trains: their teacher is there, since they were trained for the same steps.

    Raises:
        BadInput: flags that say something else of the time, or no student.
    """
    if flags.match is not None:
        raise BadInput(
            f"--match-time gives every method the time of the slowest, got --match {flags.match} as well: leave it out"
        )
    for method in (method for method in flags.methods if METHODS[method].time_matched):
        raise BadInput(
            f"--match-time gives the baseline the time of the slowest, got --method {method} as well: take baseline"
        )
    students = tuple(method for method in flags.methods if METHODS[method].student)
    if not students:
        raise BadInput(f"--match-time: got --method {','.join(flags.methods)}, expected students, as baseline,response")
    return students


def rerun(
    past_file: Path, runs: Path, data_root: Path | None, device: str, resume: bool, deterministic: bool
) -> list[dict[str, Any]]:
    """Train what a sidecar describes, and say whether it came out the same."""
    import torch

    from kdbench.models.network import Network
    from trainers.rerun import bring_teacher, read_past_training, require_new_place, require_same_data, verdict
    from trainers.time_match import Stage
    from trainers.train import TrainingJob

    past = read_past_training(past_file)
    tree = RunTree(runs, past.sidecar["dataset"], past.sidecar.get("variant"))
    join_recorded(tree.dataset, past.sidecar)
    check_runs(tree)
    require_new_place(past, tree)
    recorded, sbd = past.sidecar.get("data_root"), past.sidecar.get("sbd", False)
    data_root = data_root or (Path(recorded) if recorded else None)
    asked = DataAsked(
        data_root, sbd,
        unlabelled=Path(past.sidecar["unlabelled"]) if "unlabelled" in past.sidecar else None,
        hold_out=past.sidecar.get("hold_out"), accept="accepted_data" in past.sidecar,
    )  # fmt: skip
    data = open_data(tree.dataset, asked)
    require_same_data(past, data.train, data.unlabelled)
    bring_teacher(past, tree)
    about = check_data(tree, data, asked)
    is_teacher = past.method == "teacher"
    matched = past.sidecar.get("time_matched")
    job = TrainingJob(
        tree=tree,
        recipe=past.recipe,
        methods=() if is_teacher else (past.method,),
        match=None,
        train_teacher=is_teacher,
        seeds=(past.recipe.seed,),
        device=torch.device(choose_device(device)),
        weights=past.sidecar.get("weights"),
        resume=resume,
        about=about,
        deterministic=deterministic or past.sidecar.get("deterministic", False),
        stages=(Stage((past.method,), past.recipe.epochs, {past.method: matched}),) if matched else (),
        code=Network.recorded(past.sidecar).code,
    )
    models = execute(job, data)
    for trained in models:
        print(verdict(past, Path(trained["checkpoint"])))
    return models


def check_runs(tree: RunTree) -> None:
    if tree.runs.exists() and not tree.runs.is_dir():
        raise BadInput(f"--runs: '{tree.runs}' is a file, expected a folder, which is made when missing: name another")
    if not str(tree.runs).isprintable():  # TensorBoard's writer takes UTF-8 alone
        raise BadInput(f"--runs: '{tree.runs}' is not a printable UTF-8 name: name another folder")


def execute(job: TrainingJob, data: Data, go_on: str = GO_ON) -> list[dict[str, Any]]:
    """Train in all processes that a launcher started; the main one prints and returns what --json says of each."""
    from trainers.processes import is_main, joined_processes
    from trainers.train import train as run_job

    try:
        with joined_processes(job.device.type) as device:
            made = run_job(replace(job, device=device), data)
            if not is_main():
                return []
    except KeyboardInterrupt:
        if is_main():
            print(f"kdbench: interrupted; finished epochs are kept: {go_on}", file=sys.stderr)
        raise typer.Exit(130) from None
    models = []
    for path in made:
        sidecar = read_json(sidecar_path(path), "kdbench train")
        matched = sidecar.get("time_matched")
        how = (
            f", {sidecar['epochs']} epochs in the time of {matched['method']}'s {matched['epochs']}" if matched else ""
        )
        print(f"{sidecar['method']} seed {sidecar['seed']}: mIoU {sidecar['miou']:.4f}{how}, {path}")
        models.append({key: sidecar[key] for key in ("method", "seed", "epochs", "miou")})
        models[-1]["checkpoint"] = path.as_posix()
    return models
