"""The command line. Heavy imports are inside the commands: ``kdbench --help`` must answer at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench import __version__
from kdbench.artifacts import METHODS, STUDENT_METHODS, RunTree
from kdbench.errors import BadInput, KdbenchError

app = typer.Typer(
    name="kdbench",
    help="Knowledge distillation for semantic segmentation: train fairly, export with proof, compare every backend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at datasets before training on them.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Runs = Annotated[Path, typer.Option(help="The tree that train, export and compare share.")]
Dataset = Annotated[str | None, typer.Option(help="shapes, camvid, voc2012 or folder. Default: the one trained last.")]
DataRoot = Annotated[Path | None, typer.Option(help="The dataset's folder. Default: where it was at training.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
OutputOption = Annotated[str, typer.Option(help="mask (uint8 image in, class map out) or logits.")]


def main() -> None:
    """Run the command line: a user's error is one line on stderr, a bug keeps its traceback."""
    # Windows' and some CI's consoles are not UTF-8; a table must not die of its own ± sign.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except KdbenchError as error:
        print(f"kdbench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if show:
        print(f"kdbench {__version__}")
        raise typer.Exit


def choose(flag: str, text: str, known: tuple[str, ...], everything: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Read a comma-separated list of ``known`` names; "all" stands for ``everything``."""
    if text == "all" and everything is not None:
        return everything
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise BadInput(f"{flag}: got '{text}', expected {' or '.join(['all'] * (everything is not None))}"
                       f"{' or ' * (everything is not None)}a comma-separated list of {', '.join(known)}")  # fmt: skip
    return names


def choose_device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise BadInput(f"--device: got '{name}', expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: this PyTorch sees no GPU: use --device cpu, or install a CUDA build of torch")
    return name


def choose_seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise BadInput(f"--seeds: got '{text}', expected different whole numbers, for example 0,1,2")
    return tuple(int(part) for part in parts)


@app.command()
def train(
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}, several with commas, or all.")],
    dataset: Annotated[str, typer.Option(help="shapes, camvid, voc2012 or folder.")] = "shapes",
    data_root: Annotated[Path | None, typer.Option(help="The dataset's folder; shapes needs none.")] = None,
    runs: Runs = Path("runs"),
    recipe: Annotated[str | None, typer.Option(help="guide, a dataset's name, or a .toml file.")] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the network's input.")] = None,
    epochs: Annotated[int | None, typer.Option(help="For students and teacher alike.")] = None,
    batch_size: Annotated[int | None, typer.Option()] = None,
    lr: Annotated[float | None, typer.Option(help="Students' learning rate.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of cross-entropy.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the response loss.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Weight of the feature loss.")] = None,
    temperature: Annotated[float | None, typer.Option(help="T of the response loss.")] = None,
    kl_reduction: Annotated[str | None, typer.Option(help="pixel, or batchmean (the guide's literal form).")] = None,
    feature_loss: Annotated[str | None, typer.Option(help="cosine or pearson.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Architecture: fcn_resnet50 or fpn_resnet18.")] = None,
    weights: Annotated[str | None, typer.Option(help="Teacher's start: a file, or COCO_WITH_VOC_LABELS_V1.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    seeds: Annotated[str | None, typer.Option(help="Several seeds, for example 0,1,2.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run; skip finished ones.")] = False,
    sbd: Annotated[bool, typer.Option(help="voc2012: train on the 10,582 images that SBD adds to.")] = False,
    download: Annotated[bool, typer.Option(help="voc2012: download it first.")] = False,
) -> None:
    """Train the teacher, or students with and without it, under one budget.

    Several methods are trained side by side: same initialisation, same batches, one teacher pass.

    Examples:
      kdbench train --method all
      kdbench train --method all --dataset camvid --data-root data/camvid --seeds 0,1,2
    """
    methods = choose("--method", method, METHODS, METHODS)
    overrides: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "alpha": alpha, "beta": beta, "gamma": gamma,
        "temperature": temperature, "kl_reduction": kl_reduction, "feature_loss": feature_loss, "seed": seed,
    }  # fmt: skip
    run_training(
        RunTree(runs, dataset), methods, recipe or dataset, overrides, data_root, size=size, teacher=teacher,
        weights=weights, seeds=seeds, device=device, resume=resume, sbd=sbd, download=download,
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
    weights: str | None = None,
    seeds: str | None = None,
    device: str = "auto",
    resume: bool = False,
    sbd: bool = False,
    download: bool = False,
    keep_teacher: bool = False,
) -> None:
    """Open data and recipe and train; ``keep_teacher`` trains one only where there is none to keep."""
    import torch

    from kdbench.data import open_dataset
    from kdbench.data.preprocessing import parse_size
    from trainers.recipe import load_recipe
    from trainers.train import TrainingJob, teacher_is_ready
    from trainers.train import train as run_job

    if size is not None:
        overrides["size"] = parse_size(size)
    recipe = load_recipe(recipe_name, overrides, teacher)
    train_set = open_dataset(tree.dataset, "train", data_root, sbd=sbd, download=download)
    validation = open_dataset(tree.dataset, "val", data_root)
    reuse = keep_teacher and weights is None and teacher_is_ready(tree, recipe)
    job = TrainingJob(
        tree=tree,
        recipe=recipe,
        methods=tuple(m for m in methods if m != "teacher"),
        train_teacher="teacher" in methods and not reuse,
        seeds=choose_seeds(seeds) if seeds else (recipe.seed,),
        device=torch.device(choose_device(device)),
        weights=weights,
        resume=resume,
        about={"dataset": tree.dataset, "data_root": None if data_root is None else data_root.as_posix()},
    )
    run_job(job, train_set, validation)
