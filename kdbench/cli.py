"""The command line. Heavy imports are inside the commands: ``kdbench --help`` must answer at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench import __version__
from kdbench.artifacts import METHODS, STUDENT_METHODS, RunTree, read_json, sidecar_path
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
    teacher: Annotated[str | None, typer.Option(help="fcn_resnet50, fpn_resnet18, lraspp_mobilenet_v3_large.")] = None,
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

    if tree.runs.exists() and not tree.runs.is_dir():
        raise BadInput(f"--runs: '{tree.runs}' is a file, expected a folder, which is made when missing: name another")
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
    try:
        made = run_job(job, train_set, validation)
    except KeyboardInterrupt:
        print(
            "kdbench: interrupted; finished epochs are kept: go on with the same command and --resume", file=sys.stderr
        )
        raise typer.Exit(130) from None
    for path in made:
        sidecar = read_json(sidecar_path(path), "kdbench train")
        print(f"{sidecar['method']} seed {sidecar['seed']}: mIoU {sidecar['miou']:.4f}, {path}")


@app.command()
def export(
    method: Annotated[str, typer.Option(help=f"{', '.join(STUDENT_METHODS)}, several with commas, or all trained.")],
    export_format: Annotated[str, typer.Option("--format", help="onnx, trt, several with commas, or all.")] = "all",
    precision: Annotated[str, typer.Option(help="fp32.")] = "fp32",
    output: OutputOption = "mask",
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH of the engine. Default: that of training.")] = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
) -> None:
    """Turn trained students into ONNX files and TensorRT engines, each compared with PyTorch before it is kept.

    Examples:
      kdbench export --method feature
      kdbench export --method all --format onnx --output logits --size 512x512
    """
    tree = RunTree.find(runs, dataset)
    trained = tuple(m for m in STUDENT_METHODS if tree.checkpoint(m).exists())
    methods = choose("--method", method, STUDENT_METHODS, trained or STUDENT_METHODS)
    formats = choose("--format", export_format, ("onnx", "trt"), ("onnx", "trt"))
    for made in run_export(tree, methods, formats, precision, output, size, data_root):
        print(made)


def run_export(
    tree: RunTree,
    methods: tuple[str, ...],
    formats: tuple[str, ...],
    precision: str,
    output: str,
    size: str | None,
    data_root: Path | None,
) -> list[str]:
    """Export and return one line per artifact made; TensorRT is skipped with its reason when nothing builds it."""
    from exporters.to_onnx import export_onnx
    from exporters.to_tensorrt import export_tensorrt
    from kdbench.data.preprocessing import parse_size
    from kdbench.errors import BackendUnavailable
    from kdbench.progress import progress_bar

    choose("--precision", precision, ("fp32",))
    choose("--output", output, ("mask", "logits"))
    wanted = parse_size(size) if size else None
    validation = open_trained_dataset(tree, data_root, methods[0])
    images = [validation[i].image for i in range(min(8, len(validation)))]
    lines = []
    with progress_bar("export", len(methods) * len(formats)) as bar:
        for method in methods:
            for name in formats:
                if name == "onnx":
                    made = export_onnx(tree, method, output=output, size=wanted, images=images)
                    lines.append(f"{method} onnx {precision}: {made}")
                else:
                    try:
                        made = export_tensorrt(tree, method, output=output)
                        lines.append(f"{method} trt {precision}: {made}")
                    except BackendUnavailable as error:
                        lines.append(f"{method} trt {precision}: skipped: {error}")
                bar.advance(1, f"{method} {name}")
    return lines


def open_trained_dataset(tree: RunTree, data_root: Path | None, method: str) -> Any:
    """The validation split that a tree was trained with, from where it was then unless ``data_root`` says else."""
    from kdbench.data import open_dataset

    candidates = [tree.checkpoint(m) for m in (method, *METHODS) if sidecar_path(tree.checkpoint(m)).exists()]
    command = f"kdbench train --method {method} --dataset {tree.dataset}"
    sidecar = read_json(sidecar_path(candidates[0] if candidates else tree.checkpoint(method)), command)
    recorded = sidecar.get("data_root")
    return open_dataset(tree.dataset, "val", data_root or (Path(recorded) if recorded else None))


@app.command()
def compare(
    backend: Annotated[str, typer.Option(help="torch, onnx, trt: several with commas, or all.")] = "all",
    method: Annotated[str, typer.Option(help="Several with commas, or all.")] = "all",
    precision: Annotated[str, typer.Option(help="fp32.")] = "fp32",
    output: OutputOption = "mask",
    json_file: Annotated[Path | None, typer.Option("--json", help="Results file. Default: compare.json there.")] = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads inside an engine; 0 = one per core.", min=0)] = 0,
    rounds: Annotated[int, typer.Option(help="Timed calls per row.", min=10)] = 100,
) -> None:
    """Measure mIoU and latency of every method through every backend, and print one table.

    Writes the table's JSON, and .txt, .md and .csv beside it.

    Example:
      kdbench compare --backend torch,onnx,trt
    """
    tree = RunTree.find(runs, dataset)
    if method == "all":
        # A method that nobody trained is not asked for, except those that the guide's table is about.
        guide = ("baseline", "response", "feature")
        method = ",".join(m for m in STUDENT_METHODS if m in guide or tree.checkpoint(m).exists())
    run_compare(tree, method, backend, precision, output, json_file, data_root, device, threads, rounds)


def run_compare(
    tree: RunTree,
    method: str,
    backend: str,
    precision: str,
    output: str,
    json_file: Path | None,
    data_root: Path | None,
    device: str,
    threads: int,
    rounds: int,
) -> None:
    import os

    from rich.console import Console

    from kdbench.backends import BACKENDS
    from kdbench.compare import CompareOptions
    from kdbench.compare import compare as run
    from kdbench.errors import RunFailed
    from kdbench.tables import print_table, write_all

    options = CompareOptions(
        methods=choose("--method", method, STUDENT_METHODS),
        backends=choose("--backend", backend, BACKENDS, BACKENDS),
        precisions=choose("--precision", precision, ("fp32",)),
        output=choose("--output", output, ("mask", "logits"))[0],
        device=choose_device(device),
        threads=threads or os.cpu_count() or 1,
        rounds=rounds,
    )
    destination = json_file or tree.root / "compare.json"
    if destination.suffix != ".json":
        raise BadInput(f"--json: got '{destination}', expected a file that ends in .json")
    comparison = run(tree, open_trained_dataset(tree, data_root, options.methods[0]), options)
    write_all(comparison, destination)
    print_table(comparison, Console(width=None if sys.stdout.isatty() else 200))
    print(f"written: {destination} (.txt, .md, .csv beside it)")
    if not any(row.status == "ok" for row in comparison.rows):
        raise RunFailed("no row could be measured: the reasons stand below the table")


@app.command()
def plot(
    method: Annotated[str, typer.Option(help=f"{', '.join(STUDENT_METHODS)}, several with commas, or all trained.")],
    output: Annotated[Path | None, typer.Option(help="Folder. Default: plots/ beside the methods.")] = None,
    dataset: Dataset = None,
    runs: Runs = Path("runs"),
) -> None:
    """Draw a training: loss terms, validation mIoU with the baseline's, losses of all methods, learning rate.

    Four figures, PNG and SVG each.

    Example:
      kdbench plot --method response
    """
    from kdbench.history import trained_methods
    from kdbench.plots import make_figures, write_figures

    tree = RunTree.find(runs, dataset)
    methods = choose("--method", method, STUDENT_METHODS, trained_methods(tree) or STUDENT_METHODS)
    figures, notes = make_figures(tree, methods)
    prefix = "all" if method == "all" else "-".join(methods)
    for path in write_figures(figures, output or tree.root / "plots", prefix):
        print(path)
    for note in notes:
        print(f"note: {note}")


@app.command()
def predict(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(STUDENT_METHODS)}.")],
    images: Annotated[list[Path] | None, typer.Argument(help="Image files, and folders of them.")] = None,
    video: Annotated[str | None, typer.Option(help="A video file, or a camera's number, instead of images.")] = None,
    backend: Annotated[str, typer.Option(help="torch, onnx or trt.")] = "torch",
    output_dir: Annotated[Path | None, typer.Option(help="Default: predictions/ beside the methods.")] = None,
    dataset: Dataset = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
) -> None:
    """Segment images or a video: NAME-mask.png (class ids, dataset's colours) and NAME-overlay.png with a legend.

    A video becomes NAME-overlay.mp4; Ctrl-C ends a camera. Files go to a folder per method and backend by default.

    Example:
      kdbench predict --method response --backend onnx photos/ street.jpg
    """
    from kdbench.backends import BACKENDS

    if bool(images) == bool(video):
        raise BadInput("kdbench predict: expected images, or --video FILE or camera number, and not both")
    for flag, name, known in (("--method", method, STUDENT_METHODS), ("--backend", backend, BACKENDS)):
        if name not in known:
            raise BadInput(f"{flag}: got '{name}', expected one of {', '.join(known)}")
    tree = RunTree.find(runs, dataset)
    folder = output_dir or tree.root / "predictions" / f"{method}-{backend}"
    run_predict(tree, method, backend, choose_device(device), images or [], video, folder)


def run_predict(
    tree: RunTree, method: str, backend: str, device: str, images: list[Path], video: str | None, folder: Path
) -> None:
    from kdbench.predict import open_predictor, predict_images

    with open_predictor(tree, method, backend, device) as predictor:
        if video:
            from kdbench.video import predict_video

            print(predict_video(predictor, video, folder))
            return
        done = predict_images(predictor, images, folder)
    for image, mask, overlay in done.written:
        print(f"{image}: {mask}, {overlay}")
    for label, lines in (("warning", done.warnings), ("problem", done.problems)):
        for line in lines:
            print(f"{label}: {' '.join(line.split())}", file=sys.stderr)
    if done.problems:
        raise BadInput(
            f"{len(done.problems)} of the images could not be predicted, named above; {len(done.written)} were: "
            "mend or leave out the former"
        )


@app.command()
def demo(runs: Runs = Path("runs"), device: Device = "auto") -> None:
    """Train, export and compare on generated scenes: the whole pipeline in a few minutes, no download.

    Leaves its comparison in runs/shapes/compare.json, .txt, .md and .csv. Too short to rank methods.
    """
    tree = RunTree(runs, "shapes")
    students = ("baseline", "response", "feature")
    run_training(tree, ("teacher", *students), "demo", {}, None, device=device)
    for line in run_export(tree, students, ("onnx", "trt"), "fp32", "mask", None, None):
        print(line)
    run_compare(tree, ",".join(students), "all", "fp32", "mask", None, None, device, 0, 100)


@data_app.command()
def check(
    dataset: Annotated[str, typer.Option(help="shapes, camvid, voc2012 or folder.")],
    data_root: Annotated[Path | None, typer.Option(help="The dataset's folder; shapes needs none.")] = None,
    sbd: Annotated[bool, typer.Option(help="voc2012: with the images that SBD adds.")] = False,
    download: Annotated[bool, typer.Option(help="voc2012: download it first.")] = False,
) -> None:
    """Read every file once: counts, sizes, class shares, and every problem with the file's name.

    Example:
      kdbench data check --dataset camvid --data-root data/camvid
    """
    from rich.console import Console

    from kdbench.data import open_dataset
    from kdbench.data.check import check_dataset, overlap, report_tables

    train_set = open_dataset(dataset, "train", data_root, sbd=sbd, download=download)
    validation = open_dataset(dataset, "val", data_root)
    console = Console()
    problems, warnings = overlap(train_set, validation), list[str]()
    for split in (train_set, validation):
        report = check_dataset(split)
        for table in report_tables(report):
            console.print(table)
        problems += report.problems
        warnings += report.warnings
    for label, lines in (("warning", warnings), ("problem", problems)):
        for line in lines:
            console.print(f"{label}: {line}", markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise BadInput(f"dataset '{dataset}' has {len(problems)} problem(s), listed above: mend them before training")
