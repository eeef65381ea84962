"""The teacher that is there: whether it can be kept, what it can be put together from, and opening it to learn from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import BadInput, Missing
from kdbench.models.network import Network
from kdbench.models.registry import load_model
from kdbench.models.segmentation import SegmentationModel
from kdbench.runs.files import atomic_path, read_json, sha256
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import RunTree, sidecar_path
from trainers.recipe import Recipe


def teacher_is_ready(tree: RunTree, recipe: Recipe) -> bool:
    """Whether ``--method all`` can keep the teacher that is there: finished, and of the recipe's architecture."""
    sidecar = tree.folder("teacher").finished("kdbench train --method teacher")
    return sidecar is not None and is_network(sidecar, recipe.teacher.network)


def is_network(sidecar: dict[str, Any], network: Network) -> bool:
    """Whether a sidecar describes a network of this name and arguments."""
    found = Network.recorded(sidecar)
    in_json = json.loads(json.dumps(network.kwargs, default=repr))  # where a tuple is a list
    return (found.arch, found.kwargs) == (network.arch, in_json)


def require_teacher_arch(tree: RunTree, network: Network) -> None:
    """What --teacher names must be what is there: a student learns from the trained one, whatever was named."""
    path = tree.checkpoint("teacher")
    if not sidecar_path(path).exists():
        return  # that there is none is said where it is opened
    sidecar = read_training_sidecar(sidecar_path(path), "kdbench train --method teacher")
    if not is_network(sidecar, network):
        raise BadInput(
            f"--teacher: got '{network.label}', but the teacher '{path}' is a {Network.recorded(sidecar).label}: "
            "leave --teacher out to learn from it, or add teacher to --method to train the other in its place"
        )


def copy_teacher(source: RunTree, destination: RunTree) -> None:
    """The teacher's checkpoint and sidecar into another tree; nothing where they are there already."""
    for path in (source.checkpoint("teacher"), sidecar_path(source.checkpoint("teacher"))):
        target = destination.method_dir("teacher") / path.name
        if target.exists() and sha256(target) == sha256(path):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)


def require_members(arch: str, sources: list[str], checkpoint: Path) -> None:
    """Raise BadInput where an ensemble of the files ``sources`` cannot be written to ``checkpoint``."""
    if not sources:
        raise BadInput(
            f"--teacher {arch}: its members are trained one by one, not together: give their checkpoints by --weights, "
            "in that order, with commas"
        )
    if checkpoint.resolve() in [Path(source).resolve() for source in sources]:
        raise BadInput(
            f"--weights: '{checkpoint}' is where the ensemble would be written: train the members under another "
            "--runs, or copy it first"
        )


def require_same_classes(sources: list[str], classes: list[str]) -> None:
    """Raise BadInput where a checkpoint among ``sources`` has a sidecar that names other classes than the dataset."""
    for source in sources:
        sidecar = sidecar_path(Path(source))
        if Path(source).suffix != ".safetensors" or not sidecar.exists():
            continue
        known = read_json(sidecar, "kdbench train").get("classes", classes)
        if known != classes:
            raise BadInput(
                f"--weights '{source}' know {difference(known, classes)}: give a model that was trained on this dataset"
            )


def open_teacher(
    tree: RunTree, classes: list[str], methods: tuple[str, ...], device: torch.device
) -> tuple[SegmentationModel, dict[str, Any]]:
    """The trained teacher, frozen, and what a student's sidecar says of it.

    Args:
        methods: that would learn from it, for errors.

    Raises:
        Missing: there is none, or it is not finished. BadInput: it knows other classes than the dataset's.
    """
    path = tree.checkpoint("teacher")
    command = f"kdbench train --method teacher --dataset {tree.dataset}"
    if not path.exists():
        raise Missing(f"no teacher '{path}', which {', '.join(methods)} would learn from: make it with `{command}`")
    model, _ = load_model(path, command)
    sidecar = read_training_sidecar(sidecar_path(path), command)
    if tree.folder("teacher").finished(command) is None:
        raise Missing(
            f"teacher '{path}' is not finished (epoch {sidecar['epoch']} of {sidecar['epochs']} is saved): "
            f"go on with `{command} --resume`, or wait for the training that is at it"
        )
    if sidecar["classes"] != classes:
        raise BadInput(
            f"teacher '{path}' knows {difference(sidecar['classes'], classes)}: make it again with `{command}`"
        )
    model.requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, {key: sidecar[key] for key in ("arch", "params", "miou", "sha256", "epochs")}


def difference(was: list[str], now: list[str]) -> str:
    """How a list of classes differs from the dataset's, for an error."""
    if len(was) != len(now):
        return f"{len(was)} classes, the dataset has {len(now)}"
    index = next(i for i, (a, b) in enumerate(zip(was, now, strict=True)) if a != b)
    return f"class {index} as '{was[index]}', the dataset calls it '{now[index]}'"
