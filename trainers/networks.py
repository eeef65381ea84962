"""The networks of a training: tried before any image is read, built anew for each arm, filled with weights."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from kdbench.data import SegmentationDataset
from kdbench.errors import BadInput
from kdbench.models.foreign import ForeignModel
from kdbench.models.network import LEVELS, Code, Network
from kdbench.models.registry import build_model, shared_levels, tried
from kdbench.models.segmentation import SegmentationModel
from trainers.methods import counted_terms
from trainers.processes import is_main
from trainers.recipe import Recipe
from trainers.weights import Filled, load_weights


class Networks(NamedTuple):
    """What is trained; None where the job trains none."""

    student: Network | None
    teacher: Network | None


class Teaching(NamedTuple):
    """The teacher, frozen, and what its students' sidecars say of it."""

    model: SegmentationModel
    sidecar: dict[str, Any]

    def itself(self) -> SegmentationModel:
        return self.model


def tried_networks(recipe: Recipe, classes: int, *, student: bool, teacher: bool, code: Code | None) -> Networks:
    """What a recipe names, after a pass.

    Args:
        student, teacher: whether it is trained.
        code: of a past training that is done again.
    """
    return Networks(
        tried(replace(recipe.student.network, code=code), classes, recipe.size, "student") if student else None,
        tried(replace(recipe.teacher.network, code=code), classes, recipe.view_size, "teacher") if teacher else None,
    )


def new_student(network: Network, classes: int, recipe: Recipe) -> tuple[SegmentationModel, Filled | None]:
    """A student as every arm starts: its fresh parts depend on the recipe's seed alone."""
    torch.manual_seed(recipe.seed)
    model = build_model(network, classes)
    source = recipe.student.weights
    if source is None:
        return model, None
    filled = load_weights(model, network.label, source, "--student-weights", recipe.student.weights_into)
    return model, filled


def student_fields(network: Network, model: SegmentationModel, filled: Filled | None) -> dict[str, Any]:
    """What a student's sidecar says of its network."""
    weights = {} if filled is None else {"student_weights": filled.fields()}
    return {**network.fields(), **model.input.fields(), **weights}


def say_start(model: SegmentationModel, filled: Filled | None, dataset: SegmentationDataset) -> None:
    """One line: which weights the student starts from, or that it starts from none."""
    if not is_main():
        return
    if filled is not None:
        print(filled.line("student"))
    elif dataset.photographs:
        names = model.published()
        flag = f"--student-weights {next(iter(names))}" if names else "--student-weights FILE"
        print(
            "The student starts from scratch: ImageNet weights usually add more than distillation does (on CamVid's "
            "test split, `student_lite0` has ten points of mIoU more with them than without): "
            f"{flag} takes them"
        )


def say_view(recipe: Recipe) -> None:
    """One line: what it costs that the teacher sees more than the student; nothing where it does not."""
    height, width = recipe.view_size
    if recipe.view_size == recipe.size or not is_main():
        return
    times = height * width / (recipe.size[0] * recipe.size[1])
    mebibytes = recipe.batch_size * height * width * 3 * 4 / 2**20
    how = "" if recipe.views else "; --views 10 makes its passes once for all seeds and methods"
    print(
        f"The teacher sees {height}x{width}, {times:.1f} times the student's pixels, and its pass takes that much "
        f"longer than at the student's size; a step's {recipe.batch_size} views are {mebibytes:.0f} MiB{how}"
    )


def read_features(methods: tuple[str, ...], recipe: Recipe) -> bool:
    """Whether any of them may read the teacher's features."""
    return any(term.features for method in methods for term in counted_terms(method, recipe))


def say_levels(methods: tuple[str, ...], recipe: Recipe, model: SegmentationModel, teacher: SegmentationModel) -> None:
    """Which modules of a network from elsewhere feature distillation reads, and which level one side lacks.

    Raises:
        BadInput: there is no level at all that both have.
    """
    adapted = [method for method in methods if any(term.adapted for term in counted_terms(method, recipe))]
    shared = shared_levels(model.tap_channels, teacher.tap_channels)
    if adapted and is_main():
        for who, network in (("student", model), ("teacher", teacher)):
            if isinstance(network, ForeignModel):
                taps = ", ".join(f"{tap.module} (stride {tap.stride})" for tap in network.tap_modules.values())
                print(f"{who}: feature maps are read at {taps or 'no module'}")
    if not adapted or shared == LEVELS:
        return
    told = f"the student has feature maps at {_strides(model)}, the teacher at {_strides(teacher)}"
    if not shared:
        raise BadInput(
            f"--method {','.join(adapted)}: {told}, expected one that both have: name modules in the recipe's tables "
            "[student.taps] and [teacher.taps]"
        )
    if is_main():
        print(f"kdbench: {', '.join(adapted)}: {told}: distilling at {', '.join(shared)} alone", file=sys.stderr)


def _strides(model: SegmentationModel) -> str:
    return ", ".join(level for level in LEVELS if level in model.tap_channels) or "no level"
