"""Options that several commands share, and how their values are checked."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.data.open import join_recorded
from kdbench.errors import BadInput, KdbenchError
from kdbench.machine.environment import process_rank
from kdbench.methods.base import METHODS, student_methods
from kdbench.runs.files import SCHEMA_VERSION, write_json
from kdbench.runs.tree import RunTree, is_fold

if TYPE_CHECKING:
    from kdbench.comparison.new_scenes import OtherSplits

Runs = Annotated[Path, typer.Option(help="The tree that train, export and compare share.")]
Dataset = Annotated[str | None, typer.Option(help="{dataset}. Default: the one trained last.")]
Variant = Annotated[
    str | None,
    typer.Option(help="What differs, as student=student_lite0, or usual. Default: what was trained last."),
]
Timeout = Annotated[
    float, typer.Option(help="Seconds that an artifact may take, before its row is failed.", min=1, max=1e6)
]
DataRoot = Annotated[Path | None, typer.Option(help="The dataset's folder. Default: where it was at training.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
JsonFile = Annotated[
    str | None, typer.Option("--json", help="The result as JSON: a file, or - for stdout, which then has nothing else.")
]
OutputOption = Annotated[str, typer.Option(help="mask (uint8 image in, class map out) or logits.")]


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


def deployable(tree: RunTree) -> tuple[str, ...]:
    """Names that --method takes where a trained model and an imported file are alike."""
    return (*student_methods(), *tree.imports())


def choose_batches(text: str) -> tuple[int, ...]:
    """The sizes that --batch names."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 1024 for part in parts):
        raise BadInput(f"--batch: got '{text}', expected whole numbers from 1 to 1024, for example 1,4,16")
    return tuple(dict.fromkeys(int(part) for part in parts))


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
    # 2**31 has ten digits; longer ones would not even be read.
    seeds = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) <= 10]
    if len(set(seeds)) != len(parts) or max(seeds) >= 2**31:
        raise BadInput(f"--seeds: got '{text}', expected different whole numbers below 2^31, for example 0,1,2")
    return tuple(seeds)


def trust_named(text: str) -> None:
    """Agree to run the file of a network that this command names."""
    from kdbench.models.code import code_of, names_code, trust
    from kdbench.models.network import Network

    arch = Network.parse(text, "--student").arch
    if names_code(arch):
        trust(code_of(arch))


def open_trained_dataset(tree: RunTree, data_root: Path | None, method: str, split: str = "val") -> Any:
    """A split of what a tree was trained with, from where it was then unless ``data_root`` says else."""
    from kdbench.data import open_dataset
    from kdbench.data.held_out import hold_out
    from kdbench.runs.sidecar import read_description

    names = (method, *METHODS.names(), *tree.imports())
    described = [one.folder(name).description for one in (tree, *tree.folds()) for name in names]
    command = f"kdbench train --method {method} --dataset {tree.dataset}"
    sidecar = read_description(next((path for path in described if path.exists()), described[0]), command)
    join_recorded(tree.dataset, sidecar)
    recorded = sidecar.get("data_root")
    root = data_root or (Path(recorded) if recorded else None)
    if not is_fold(tree.variant) or split == "test":
        return open_dataset(tree.dataset, split, root)
    train, val = (open_dataset(tree.dataset, name, root) for name in ("train", "val"))
    kept, held = hold_out(train, val, sidecar["hold_out"])
    return kept if split == "train" else held


def other_splits(tree: RunTree, data_root: Path | None, method: str, *, test: bool) -> OtherSplits:
    """What trainings are scored on besides validation.

    Args:
        test: score the test split too.

    Raises:
        BadInput: there is no test split.
    """
    from kdbench.comparison.new_scenes import OtherSplits

    folds = any(is_fold(variant) for variant in tree.variants())
    return OtherSplits(
        open_trained_dataset(tree, data_root, method, "train") if folds else None,
        open_trained_dataset(tree, data_root, method, "test") if test else None,
    )


def recipe_defaults() -> dict[str, Any]:
    """A recipe's fields and their defaults: what trainings did before a field existed."""
    from trainers.recipe import Recipe

    return Recipe.model_validate({}).model_dump(mode="json")


@contextmanager
def json_result(json_file: str | None) -> Iterator[dict[str, Any]]:
    """Collect a command's result in the dict that this yields, and write it when the block ends, by an error too.

    Args:
        json_file: of --json. With "-", stdout gets the document on one line, and what the block prints for a person
            goes to stderr.
    """
    if json_file not in (None, "-"):
        check_writable(results_file(json_file))
    document: dict[str, Any] = {}
    try:
        with redirect_stdout(sys.stderr) if json_file == "-" else nullcontext():
            yield document
    except KdbenchError as error:
        if document:
            document["error"] = " ".join(str(error).split())
            error.in_json = True
        raise
    finally:
        if document and process_rank() == 0:
            document = {"schema_version": SCHEMA_VERSION, **document}
            if json_file == "-":
                print(json.dumps(document, allow_nan=False))
            elif json_file is not None:
                write_json(Path(json_file), document)
                print(f"written: {json_file}")


def results_file(json_file: str | None, default: Path | None = None) -> Path:
    """Where --json writes; ``default`` when it is not given, or "-"."""
    path = default if default is not None and json_file in (None, "-") else Path(str(json_file))
    if path.suffix != ".json":
        raise BadInput(f"--json: got '{path}', expected a file that ends in .json, or - for stdout")
    return path


def check_writable(destination: Path, *twins: str) -> None:
    """Refuse before the measurements what could not be written after them.

    Args:
        destination: of --json.
        twins: suffixes of the files written beside it.

    Raises:
        BadInput: the results file or one of its twins is a folder, or its folder cannot be made or written.
    """
    for suffix in (".json", *twins):
        if destination.with_suffix(suffix).is_dir():
            raise BadInput(f"--json: '{destination.with_suffix(suffix)}' is a folder, expected a file: name another")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=destination.parent):
            pass
    except OSError as error:
        raise BadInput(
            f"--json: '{destination}' cannot be written ({error.strerror}): name a file in a folder that can be"
        ) from error
