"""``kdbench compare``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from kdbench.backends import BACKENDS, usual_backends
from kdbench.cli.app import app
from kdbench.cli.options import (
    DataRoot,
    Dataset,
    Device,
    OutputOption,
    Runs,
    Timeout,
    check_writable,
    choose,
    choose_batches,
    choose_device,
    deployable,
    json_result,
    open_trained_dataset,
    other_splits,
    recipe_defaults,
    results_file,
)
from kdbench.errors import BadInput
from kdbench.formats import PRECISIONS
from kdbench.machine.apart import LIMIT_S
from kdbench.machine.cores import require_bearable, usable_cores
from kdbench.methods.base import student_methods
from kdbench.runs.files import read_json
from kdbench.runs.tree import USUAL, RunTree, is_fold


@app.command(rebuilds=True, untimed=True)
def compare(
    backend: Annotated[str, typer.Option(help="{backend}; all = {usual}.")] = "all",
    method: Annotated[str, typer.Option(help="Several with commas, or all.")] = "all",
    precision: Annotated[str, typer.Option(help=f"{', '.join(PRECISIONS)}, several with commas, or all.")] = "fp32",
    output: OutputOption = "mask",
    json_file: Annotated[
        str | None, typer.Option("--json", help="Results file, or - for stdout too. Default: compare.json there.")
    ] = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    variant: Annotated[
        str, typer.Option(help="Of the trainings, as student=student_lite0 or usual: several with commas, or all.")
    ] = "all",
    split: Annotated[
        str, typer.Option(help="val, or test: score a test split as well, once, when a study is finished.")
    ] = "val",
    timeout: Timeout = LIMIT_S,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads inside an engine; 0 = one per core.", min=0)] = 0,
    rounds: Annotated[int, typer.Option(help="Timed calls per row.", min=10)] = 100,
    batch: Annotated[
        str,
        typer.Option(help="Images per second at these, as 1,4,16: PyTorch, and exports with --dynamic-batch."),
    ] = "1",
) -> None:
    """Measure mIoU and latency of every method through every backend, and print a table, or one per backend.

    Writes the table's JSON, and .txt, .md and .csv beside it.

    Examples:
      kdbench compare --backend torch,onnx,trt
      kdbench compare --backend onnx,openvino --precision fp32,int8
      kdbench compare --split test
      kdbench compare --batch 1,4,16
    """
    tree = RunTree.find(runs, dataset, USUAL)
    flags = CompareFlags(method, backend, precision, output, device, threads, rounds, variant, timeout, split, batch)
    run_compare(tree, flags, json_file, data_root)


@dataclass(frozen=True)
class CompareFlags:
    """What a person asks ``kdbench compare`` for, in its flags' words: names with commas, 0 threads = every core."""

    method: str
    backend: str
    precision: str = "fp32"
    output: str = "mask"
    device: str = "auto"
    threads: int = 0
    rounds: int = 100
    variant: str = "all"
    timeout: float = LIMIT_S
    split: str = "val"
    batch: str = "1"


def chosen_variants(tree: RunTree, text: str) -> tuple[str | None, ...]:
    """Those asked for; "all" = those in which anything was trained, the usual one where there is none."""
    if text == "all":
        return tuple(tree.trained_variants()) or (None,)
    names = choose("--variant", text, (USUAL, *(name for name in tree.variants() if name)))
    if folds := [name for name in names if is_fold(name)]:
        raise BadInput(
            f"--variant: got '{folds[0]}', a fold, which has no validation split of its own: leave it out, folds are "
            "the column 'New scenes' of the variant that they are of"
        )
    return tuple(None if name == USUAL else name for name in names)


def chosen_methods(tree: RunTree, text: str, variants: tuple[str | None, ...]) -> tuple[str, ...]:
    if text != "all":
        return choose("--method", text, deployable(tree))
    # A method that nobody trained is not asked for, except those that the guide's table is about.
    guide = ("baseline", "response", "feature")
    trees = [tree.of_variant(variant) for variant in variants]
    return tuple(m for m in student_methods() if m in guide or any(one.checkpoint(m).exists() for one in trees))


def run_compare(
    tree: RunTree, flags: CompareFlags, json_file: str | None = None, data_root: Path | None = None
) -> None:
    """Measure, print the table and write it.

    Args:
        json_file: of --json.
        data_root: the dataset's folder; None = where it was at training.
    """
    from rich.console import Console

    from kdbench.comparison.compare import CompareOptions
    from kdbench.comparison.compare import compare as run
    from kdbench.comparison.tables import print_table, write_all
    from kdbench.errors import RunFailed

    require_bearable(flags.threads)
    splits = choose("--split", flags.split, ("val", "test"))
    variants = chosen_variants(tree, flags.variant)
    options = CompareOptions(
        variants=variants,
        limit_s=flags.timeout,
        methods=chosen_methods(tree, flags.method, variants),
        backends=choose("--backend", flags.backend, BACKENDS.names(), usual_backends()),
        precisions=choose("--precision", flags.precision, PRECISIONS, PRECISIONS),
        output=choose("--output", flags.output, ("mask", "logits"))[0],
        device=choose_device(flags.device),
        threads=flags.threads or usable_cores(),
        rounds=flags.rounds,
        batches=choose_batches(flags.batch),
        recipe_defaults=recipe_defaults(),
    )
    destination = results_file(json_file, tree.comparison)
    check_writable(destination, ".txt", ".md", ".csv")
    with json_result("-" if json_file == "-" else None) as document:
        dataset = open_trained_dataset(tree.of_variant(variants[0]), data_root, options.methods[0])
        others = other_splits(tree, data_root, options.methods[0], test="test" in splits)
        comparison = run(tree, dataset, options, others)
        write_all(comparison, destination)
        document.update(read_json(destination, "kdbench compare"))
        print_table(comparison, Console(width=None if sys.stdout.isatty() else 200))
        print(f"written: {destination} (.txt, .md, .csv beside it)")
        # A precision that a backend does not have is no failure.
        tried = [row for row in comparison.rows if row.status != "unsupported"]
        if tried and not any(row.status == "ok" for row in tried):
            raise RunFailed("no row could be measured: the reasons stand below the table")
