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
    overwrite: bool = False
    go_on: str = GO_ON


def run_training(tree: RunTree, flags: TrainFlags, data_root: Path | None) -> list[dict[str, Any]]:
    """Open data and recipe, and train."""
    import torch

    from kdbench.data import open_dataset
    from kdbench.data.check import require_sound
    from kdbench.data.preprocessing import parse_size
    from kdbench.data.remembered import Remembered
    from kdbench.data.unlabelled import open_unlabelled
    from trainers.methods import needs_teacher
    from trainers.network_recipe import NO_WEIGHTS
    from trainers.processes import launcher_precision
    from trainers.recipe import load_recipe, variant_name
    from trainers.teacher import require_teacher_arch, teacher_is_ready
    from trainers.time_match import equal_time
    from trainers.train import Data, TrainingJob

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
    same_steps = tree.of_variant(variant_name(tree.dataset, recipe, flags.unlabelled))
    tree = tree.of_variant(variant_name(tree.dataset, recipe, flags.unlabelled, match_time=flags.match_time))
    weights = recipe.teacher.weights if flags.weights is None else flags.weights
    if flags.teacher is not None and "teacher" not in flags.methods and any(map(needs_teacher, flags.methods)):
        require_teacher_arch(tree, recipe.teacher.network)
    chosen_seeds = choose_seeds(flags.seeds) if flags.seeds else (recipe.seed,)
    device = torch.device(choose_device(flags.device))
    stages: list[Stage] = []
    if flags.match_time:
        recipe, stages = equal_time(same_steps, recipe, flags.methods, device.type)
    train_set = open_dataset(tree.dataset, "train", data_root, sbd=flags.sbd, download=flags.download)
    validation = open_dataset(tree.dataset, "val", data_root)
    unlabelled = open_unlabelled(flags.unlabelled, train_set, validation, data_root)
    accepted = require_sound(
        train_set, validation, unlabelled, accept=flags.accept_data, remembered=Remembered(tree.data_file)
    )
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
        about={**about_data(tree, data_root, flags.sbd, flags.unlabelled), **accepted},
        deterministic=flags.deterministic,
        stages=tuple(stages),
    )
    return execute(job, Data(train_set, validation, unlabelled), flags.go_on)


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

    from kdbench.data import open_dataset
    from kdbench.data.check import require_sound
    from kdbench.data.remembered import Remembered
    from kdbench.data.unlabelled import open_unlabelled
    from kdbench.models.network import Network
    from trainers.rerun import bring_teacher, read_past_training, require_new_place, require_same_data, verdict
    from trainers.time_match import Stage
    from trainers.train import Data, TrainingJob

    past = read_past_training(past_file)
    tree = RunTree(runs, past.sidecar["dataset"], past.sidecar.get("variant"))
    join_recorded(tree.dataset, past.sidecar)
    check_runs(tree)
    require_new_place(past, tree)
    recorded, sbd = past.sidecar.get("data_root"), past.sidecar.get("sbd", False)
    data_root = data_root or (Path(recorded) if recorded else None)
    train_set = open_dataset(tree.dataset, "train", data_root, sbd=sbd)
    validation = open_dataset(tree.dataset, "val", data_root)
    folder = Path(past.sidecar["unlabelled"]) if "unlabelled" in past.sidecar else None
    unlabelled = open_unlabelled(folder, train_set, validation, data_root)
    require_same_data(past, train_set, unlabelled)
    bring_teacher(past, tree)
    accepted = require_sound(
        train_set, validation, unlabelled, accept="accepted_data" in past.sidecar, remembered=Remembered(tree.data_file)
    )
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
        about={**about_data(tree, data_root, sbd, folder), **accepted},
        deterministic=deterministic or past.sidecar.get("deterministic", False),
        stages=(Stage((past.method,), past.recipe.epochs, {past.method: matched}),) if matched else (),
        code=Network.recorded(past.sidecar).code,
    )
    models = execute(job, Data(train_set, validation, unlabelled))
    for trained in models:
        print(verdict(past, Path(trained["checkpoint"])))
    return models


def about_data(tree: RunTree, data_root: Path | None, sbd: bool, unlabelled: Path | None) -> dict[str, Any]:
    """What a sidecar says of where the data are."""
    further = {"sbd": True} if sbd else {}
    folder = {} if unlabelled is None else {"unlabelled": unlabelled.as_posix()}
    return {**how_to_open(tree.dataset, data_root), **further, **folder}


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
