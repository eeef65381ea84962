"""``kdbench train``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.cli.app import app
from kdbench.cli.options import Device, JsonFile, Runs, choose, choose_device, choose_seeds, json_result, trust_named
from kdbench.data.open import how_to_open, join_dataset, join_recorded
from kdbench.errors import BadInput
from kdbench.methods.base import METHODS, all_methods, distilled_methods
from kdbench.runs.files import read_json
from kdbench.runs.tree import RunTree, last_sidecar, sidecar_path

if TYPE_CHECKING:
    from trainers.train import Data, TrainingJob


BESIDE_FROM = {
    "--from", "--runs", "--data-root", "--device", "--resume", "--deterministic", "--json", "--trust-code", "--threads"
}  # fmt: skip
"""Flags that say something of a repetition."""
GO_ON = "go on with the same command and --resume"
"""What to do after an interruption."""


@app.command(rebuilds=True, computes=True)
def train(
    context: typer.Context,
    method: Annotated[
        str | None,
        typer.Option(help="{methods}: several with commas, or all = {all}."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="{dataset}. Default: the one trained last, else shapes.", rich_help_panel="Data")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="The folder that holds: {roots}.", rich_help_panel="Data")
    ] = None,
    runs: Runs = Path("runs"),
    recipe: Annotated[
        str | None, typer.Option(help="guide, a dataset's name, or a .toml file.", rich_help_panel="Budget")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH of the network's input.", rich_help_panel="Budget")
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Train on the first N images alone.", rich_help_panel="Data")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="For students and teacher alike.", rich_help_panel="Budget")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Students' images per step.", rich_help_panel="Budget")] = None,
    lr: Annotated[float | None, typer.Option(help="Students' learning rate.", rich_help_panel="Budget")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of cross-entropy.", rich_help_panel="Losses")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the response loss.", rich_help_panel="Losses")] = None,
    gamma: Annotated[float | None, typer.Option(help="Weight of the feature loss.", rich_help_panel="Losses")] = None,
    temperature: Annotated[float | None, typer.Option(help="T of the response loss.", rich_help_panel="Losses")] = None,
    kl_reduction: Annotated[
        str | None, typer.Option(help="pixel, or batchmean (the guide's literal form).", rich_help_panel="Losses")
    ] = None,
    feature_loss: Annotated[str | None, typer.Option(help="cosine or pearson.", rich_help_panel="Losses")] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="{student}; {sources}; or your own: FILE.py:FUNCTION. Default: the recipe's.",
            rich_help_panel="Networks",
        ),
    ] = None,
    student_weights: Annotated[
        str | None,
        typer.Option(help="Student's start: a file, a published name, imagenet, or none.", rich_help_panel="Networks"),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="{teacher}, others as for --student, or trained ones joined by +, averaged.",
            rich_help_panel="Networks",
        ),
    ] = None,
    teacher_weights: Annotated[
        str | None,
        typer.Option(
            "--teacher-weights",
            "--weights",
            help="Teacher's start, as for --student-weights; for A+B one file of each, with commas.",
            rich_help_panel="Networks",
        ),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(help="baseline-long: whose time it gets. Default: the slowest.", rich_help_panel="Budget"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of initialisation, order and augmentation.", rich_help_panel="Budget")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Several seeds, for example 0,1,2.", rich_help_panel="Budget")
    ] = None,
    device: Device = "auto",
    resume: Annotated[
        bool,
        typer.Option(help="Go on with an interrupted run; skip finished ones.", rich_help_panel="Going on, and again"),
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Refuse operators whose results vary from run to run.",
            rich_help_panel="Going on, and again",
        ),
    ] = False,
    past: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A sidecar (student.json): train that again, under another --runs.",
            rich_help_panel="Going on, and again",
        ),
    ] = None,
    sbd: Annotated[
        bool, typer.Option(help="{sbd}: train on the 10,582 images that SBD adds to.", rich_help_panel="Data")
    ] = False,
    download: Annotated[bool, typer.Option(help="{download}: download it first.", rich_help_panel="Data")] = False,
    labelled: Annotated[
        str | None,
        typer.Option(
            help="Share of the images whose labels are used, as 0.25, or a list file of names.", rich_help_panel="Data"
        ),
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            help="A folder of images without labels: distilled methods learn from them too.", rich_help_panel="Data"
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="With --resume: train anew what was finished with other settings.",
            rich_help_panel="Going on, and again",
        ),
    ] = False,
    accept_data: Annotated[
        bool,
        typer.Option(
            "--accept-data", help="Train in spite of problems that a look at the data shows.", rich_help_panel="Data"
        ),
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Train the teacher, or students with and without it, under one budget.

    Several methods are trained side by side: same initialisation, same batches, one teacher pass.

    baseline-long is the baseline with as many epochs as fit in the time of a distilled method trained beside it.

    Examples:
      kdbench train --method all
      kdbench train --method all --dataset camvid --data-root data/camvid --seeds 0,1,2
      kdbench train --method cwd,dist
      kdbench train --method baseline-long
      kdbench train --from runs/camvid/dist/student.json --runs again
      torchrun --nproc-per-node 2 -m kdbench train --method all
    """
    if past is not None:
        given = {p.opts[0] for p in context.command.params if is_given(context, str(p.name))}
        if extra := sorted(given - BESIDE_FROM):
            raise BadInput(f"--from takes everything from '{past}', got {extra[0]} as well: leave it out")
        with json_result(json_file) as document:
            document.update(models=rerun(past, runs, data_root, device, resume, deterministic))
        return
    if method is None:
        raise BadInput("--method: got none, expected what to train, for example --method all (or --from a sidecar)")
    dataset, data_root = dataset_and_root(dataset, data_root, runs)
    methods = choose("--method", method, METHODS.names(), all_methods())
    overrides: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "alpha": alpha, "beta": beta, "gamma": gamma,
        "temperature": temperature, "kl_reduction": kl_reduction, "feature_loss": feature_loss, "seed": seed,
        "student": student, "student_weights": student_weights, "labelled": share_or_list(labelled),
        "images": images,
    }  # fmt: skip
    from trainers.recipe import recipe_of

    with json_result(json_file) as document:
        flags = TrainFlags(
            methods, recipe or recipe_of(dataset), overrides, size=size, teacher=teacher, match=match,
            weights=teacher_weights,
            seeds=seeds, device=device, resume=resume, sbd=sbd, download=download, keep_teacher=method == "all",
            deterministic=deterministic, accept_data=accept_data, unlabelled=unlabelled,
            overwrite=overwrite,
        )  # fmt: skip
        document.update(models=run_training(RunTree(runs, dataset), flags, data_root))


def dataset_and_root(dataset: str | None, data_root: Path | None, runs: Path) -> tuple[str, Path | None]:
    """What to train on, and where it is: as for the other commands, what was trained last where nothing is named."""
    if dataset is not None:
        return join_dataset(dataset), data_root
    newest = last_sidecar(runs)
    if newest is None:
        return "shapes", data_root
    name = newest.relative_to(runs).parts[0]
    sidecar = read_json(newest, "kdbench train")
    join_recorded(name, sidecar)
    recorded = sidecar.get("data_root")
    print(f"kdbench: taking the dataset trained last, '{name}': --dataset names another", file=sys.stderr)
    return name, data_root or (Path(recorded) if recorded else None)


def share_or_list(labelled: str | None) -> float | str | None:
    """What --labelled means: a number is a share, anything else a file."""
    if labelled is None:
        return None
    try:
        return float(labelled)
    except ValueError:
        return labelled


def is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@dataclass(frozen=True)
class TrainFlags:
    """What a person asks ``kdbench train`` for, in its flags' words; what is None the recipe says.

    Attributes:
        recipe: a recipe's name or file.
        overrides: fields of the recipe that flags set, None = not given.
        keep_teacher: train one only where there is none to keep.
        go_on: what to do after an interruption.
    """

    methods: tuple[str, ...]
    recipe: str
    overrides: dict[str, Any] = field(default_factory=dict)
    size: str | None = None
    teacher: str | None = None
    match: str | None = None
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
    from trainers.train import Data, TrainingJob

    check_runs(tree)
    for arch in filter(None, (flags.overrides.get("student"), flags.teacher)):
        trust_named(arch)
    if flags.weights is not None and "teacher" not in flags.methods:
        raise BadInput(
            f"--teacher-weights: got '{flags.weights}', but they are the teacher's start: add teacher to --method"
        )
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
    tree = tree.of_variant(variant_name(tree.dataset, recipe, flags.unlabelled))
    weights = recipe.teacher.weights if flags.weights is None else flags.weights
    if flags.teacher is not None and "teacher" not in flags.methods and any(map(needs_teacher, flags.methods)):
        require_teacher_arch(tree, recipe.teacher.network)
    chosen_seeds = choose_seeds(flags.seeds) if flags.seeds else (recipe.seed,)
    device = torch.device(choose_device(flags.device))
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
    )
    return execute(job, Data(train_set, validation, unlabelled), flags.go_on)


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
        time_matched=past.sidecar.get("time_matched"),
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
