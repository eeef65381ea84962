"""``kdbench train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.cli.app import app
from kdbench.cli.options import Device, JsonFile, Runs, choose, json_result
from kdbench.cli.training import TrainFlags, rerun, run_training
from kdbench.data.open import join_dataset, join_recorded
from kdbench.errors import BadInput
from kdbench.methods.base import METHODS, all_methods
from kdbench.runs.files import read_json
from kdbench.runs.tree import RunTree, last_sidecar

BESIDE_FROM = {
    "--from", "--runs", "--data-root", "--device", "--resume", "--deterministic", "--json", "--trust-code", "--threads"
}  # fmt: skip
"""Flags that say something of a repetition."""


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
    match_time: Annotated[
        bool,
        typer.Option(
            "--match-time",
            help="Every method gets the wall-clock of the slowest, as trained before without this flag.",
            rich_help_panel="Budget",
        ),
    ] = False,
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
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="A recording: train on the others of train and val together, and score on this one.",
            rich_help_panel="Data",
        ),
    ] = None,
    folds: Annotated[
        bool,
        typer.Option("--folds", help="Hold out each recording in turn: mIoU on new scenes.", rich_help_panel="Data"),
    ] = False,
    views: Annotated[
        int | None,
        typer.Option(
            help="Augmented views of each image, made once with the teacher's outputs, for all methods and seeds.",
            rich_help_panel="Budget",
        ),
    ] = None,
    cutmix: Annotated[
        float | None,
        typer.Option(
            help="Probability that half of an image is another's, labels and all: CutMix, in every method alike.",
            rich_help_panel="Budget",
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
      kdbench train --method all --dataset camvid --data-root data/camvid --folds
      kdbench train --method baseline-long
      kdbench train --method all --match-time
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
        "images": images, "views": views, "cutmix": cutmix,
    }  # fmt: skip
    from trainers.recipe import recipe_of

    with json_result(json_file) as document:
        flags = TrainFlags(
            methods, recipe or recipe_of(dataset), overrides, size=size, teacher=teacher, match=match,
            match_time=match_time, weights=teacher_weights,
            seeds=seeds, device=device, resume=resume, sbd=sbd, download=download, keep_teacher=method == "all",
            deterministic=deterministic, accept_data=accept_data, unlabelled=unlabelled,
            overwrite=overwrite, hold_out=hold_out, folds=folds,
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
