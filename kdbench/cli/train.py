"""``kdbench train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.artifacts import METHODS, STANDARD_METHODS, TIME_MATCHED, RunTree, read_json, sidecar_path
from kdbench.cli.app import app
from kdbench.cli.options import Device, Runs, choose, choose_device, choose_seeds
from kdbench.errors import BadInput


@app.command()
def train(
    method: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(METHODS)}: several with commas, or all = {', '.join((*STANDARD_METHODS, 'teacher'))}."
        ),
    ],
    dataset: Annotated[str, typer.Option(help="shapes, camvid, voc2012 or folder.")] = "shapes",
    data_root: Annotated[Path | None, typer.Option(help="The dataset's folder; shapes needs none.")] = None,
    runs: Runs = Path("runs"),
    recipe: Annotated[str | None, typer.Option(help="guide, a dataset's name, or a .toml file.")] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the network's input.")] = None,
    epochs: Annotated[int | None, typer.Option(help="For students and teacher alike.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Students' images per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Students' learning rate.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of cross-entropy.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the response loss.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Weight of the feature loss.")] = None,
    temperature: Annotated[float | None, typer.Option(help="T of the response loss.")] = None,
    kl_reduction: Annotated[str | None, typer.Option(help="pixel, or batchmean (the guide's literal form).")] = None,
    feature_loss: Annotated[str | None, typer.Option(help="cosine or pearson.")] = None,
    teacher: Annotated[str | None, typer.Option(help="fcn_resnet50, fpn_resnet18, lraspp_mobilenet_v3_large.")] = None,
    weights: Annotated[str | None, typer.Option(help="Teacher's start: a file, or COCO_WITH_VOC_LABELS_V1.")] = None,
    match: Annotated[
        str | None, typer.Option(help=f"{TIME_MATCHED}: whose time it gets. Default: the slowest.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of initialisation, order and augmentation.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several seeds, for example 0,1,2.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run; skip finished ones.")] = False,
    sbd: Annotated[bool, typer.Option(help="voc2012: train on the 10,582 images that SBD adds to.")] = False,
    download: Annotated[bool, typer.Option(help="voc2012: download it first.")] = False,
) -> None:
    """Train the teacher, or students with and without it, under one budget.

    Several methods are trained side by side: same initialisation, same batches, one teacher pass.

    baseline-long is the baseline with as many epochs as fit in the time of a distilled method trained beside it.

    Examples:
      kdbench train --method all
      kdbench train --method all --dataset camvid --data-root data/camvid --seeds 0,1,2
      kdbench train --method cwd,dist
      kdbench train --method baseline-long
    """
    methods = choose("--method", method, METHODS, (*STANDARD_METHODS, "teacher"))
    overrides: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "alpha": alpha, "beta": beta, "gamma": gamma,
        "temperature": temperature, "kl_reduction": kl_reduction, "feature_loss": feature_loss, "seed": seed,
    }  # fmt: skip
    run_training(
        RunTree(runs, dataset), methods, recipe or dataset, overrides, data_root, size=size, teacher=teacher,
        match=match, weights=weights, seeds=seeds, device=device, resume=resume, sbd=sbd, download=download,
        keep_teacher=method == "all",
    )  # fmt: skip


def run_training(
    tree: RunTree,
    methods: tuple[str, ...],
    recipe_name: str,
    overrides: dict[str, Any],
    data_root: Path | None,
    *,
    size: str | None = None,
    teacher: str | None = None,
    match: str | None = None,
    weights: str | None = None,
    seeds: str | None = None,
    device: str = "auto",
    resume: bool = False,
    sbd: bool = False,
    download: bool = False,
    keep_teacher: bool = False,
    go_on: str = "go on with the same command and --resume",
) -> None:
    """Open data and recipe and train; ``keep_teacher`` trains one only where there is none to keep."""
    from kdbench.data import open_dataset
    from kdbench.data.preprocessing import parse_size
    from trainers.methods import TERMS
    from trainers.processes import is_main, joined_processes, launcher_precision
    from trainers.recipe import load_recipe
    from trainers.train import TrainingJob, teacher_is_ready
    from trainers.train import train as run_job

    if tree.runs.exists() and not tree.runs.is_dir():
        raise BadInput(f"--runs: '{tree.runs}' is a file, expected a folder, which is made when missing: name another")
    if not str(tree.runs).isprintable():  # TensorBoard's writer takes UTF-8 alone
        raise BadInput(f"--runs: '{tree.runs}' is not a printable UTF-8 name: name another folder")
    if weights is not None and "teacher" not in methods:
        raise BadInput(f"--weights: got '{weights}', but they are the teacher's start: add teacher to --method")
    if match is not None:
        if match not in TERMS:
            raise BadInput(f"--match: got '{match}', expected one of {', '.join(TERMS)}")
        if TIME_MATCHED not in methods:
            raise BadInput(f"--match {match}: got --method {','.join(methods)}, expected {TIME_MATCHED} among them")
    if size is not None:
        overrides["size"] = parse_size(size)
    if precision := launcher_precision():
        overrides["precision"] = precision
    recipe = load_recipe(recipe_name, overrides, teacher)
    train_set = open_dataset(tree.dataset, "train", data_root, sbd=sbd, download=download)
    validation = open_dataset(tree.dataset, "val", data_root)
    reuse = keep_teacher and weights is None and teacher_is_ready(tree, recipe)
    chosen_seeds = choose_seeds(seeds) if seeds else (recipe.seed,)
    try:
        with joined_processes(choose_device(device)) as own_device:
            job = TrainingJob(
                tree=tree,
                recipe=recipe,
                methods=tuple(m for m in methods if m != "teacher"),
                match=match,
                train_teacher="teacher" in methods and not reuse,
                seeds=chosen_seeds,
                device=own_device,
                weights=weights,
                resume=resume,
                about={"dataset": tree.dataset, "data_root": None if data_root is None else data_root.as_posix()},
            )
            made = run_job(job, train_set, validation)
            if not is_main():
                return
    except KeyboardInterrupt:
        if is_main():
            print(f"kdbench: interrupted; finished epochs are kept: {go_on}", file=sys.stderr)
        raise typer.Exit(130) from None
    for path in made:
        sidecar = read_json(sidecar_path(path), "kdbench train")
        matched = sidecar.get("time_matched")
        how = (
            f", {sidecar['epochs']} epochs in the time of {matched['method']}'s {matched['epochs']}" if matched else ""
        )
        print(f"{sidecar['method']} seed {sidecar['seed']}: mIoU {sidecar['miou']:.4f}{how}, {path}")
