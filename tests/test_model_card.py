"""``MODEL_CARD.md`` of other artifacts than the tests train: on the comparison that ``tests/golden`` keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.comparison.choice import Limits, choose_artifact
from kdbench.comparison.results import Comparison
from kdbench.data.normalisation import Input
from kdbench.package.card import model_card
from kdbench.package.shipped import Shipped
from kdbench.package.tensors import Tensor
from tests.conftest import REPOSITORY
from trainers.recipe import Common, Recipe

GOLDEN = REPOSITORY / "tests/golden/compare.json"


@pytest.fixture
def comparison():
    return Comparison.read(GOLDEN)


@pytest.fixture
def card(comparison):
    """The card of a method's ONNX file, with other fields of its row, of its sidecar and of itself."""

    def make(method="response", row=(), sidecar=(), training=None, **changes):
        chosen = choose_artifact(comparison, Limits(None, backends=("onnx",), methods=(method,))).chosen
        about = comparison
        if training is not None:
            about = comparison.model_copy(update={"training": {**comparison.training, method: training}})
        shipped = Shipped(
            about,
            replace(chosen, row=chosen.row.model_copy(update=dict(row))),
            Path("mask.onnx"),
            {"format": "onnx", "precision": "fp32", "classes": comparison.dataset["classes"], "size": [64, 96],
             **Input().fields(), **dict(sidecar)},
            Tensor("image", "uint8", (1, 64, 96, 3)), Tensor("mask", "uint8", (1, 64, 96)), "because",
        )  # fmt: skip
        return model_card(replace(shipped, **changes))

    return make


def test_a_distilled_student_names_its_teacher_and_what_it_scored(card, comparison):
    teacher = comparison.teacher
    line = next(line for line in card().splitlines() if line.startswith("- Teacher:"))
    assert "fpn\\_resnet18" in line or "fpn_resnet18" in line
    assert line.endswith(f"mIoU {teacher.miou:.4f}, 11.6M parameters")
    assert "- Teacher:" not in card("baseline")


def test_the_recipe_is_what_the_method_reads_of_the_recorded_one(card, comparison):
    recipe = Recipe.model_validate({"views": 10, "unlabelled_share": 0.5, "seed": 7}).model_dump(mode="json")
    about = {**comparison.training["response"], "recipe": recipe}
    line = next(line for line in card(training=about).splitlines() if line.startswith("- Recipe: "))
    told = [part.split(" ")[0] for part in line.removeprefix("- Recipe: ").replace("512, 512", "512x512").split(", ")]
    others = {"seed", "student", "teacher", "teacher_precision", "validate_every"}
    names = [name for name in Common.model_fields if name not in others and recipe[name] is not None]
    assert told == [*names, "beta", "temperature", "kl_reduction"]
    assert "views 10" in line
    assert "unlabelled_share 0.5" in line


def test_several_seeds_are_told_with_their_mean(card, comparison):
    about = {**comparison.training["response"], "seeds": [3, 4, 5], "miou_by_seed": [0.5, 0.6, 0.7]}
    assert (
        "This file is seed 3 of the seeds 3, 4, 5, whose mIoU in PyTorch is 0.5000, 0.6000, 0.7000: 0.6000 ± 0.0577 "
        "standard error"
    ) in card(training=about)
    one = card(training={**about, "seeds": [3], "miou_by_seed": [0.5]})
    assert "One training, seed 3: how much another seed would differ is not known" in one


def test_labels_and_images_without_them_are_told_apart(card):
    assert "Learnt from: 92 training images with their labels\n" in card(row={"labelled": 92, "unlabelled": 0})
    both = card(row={"labelled": 92, "unlabelled": 275})
    assert "Learnt from: 92 training images with their labels, and 275 images without theirs" in both
    assert "Learnt from" not in card()


def test_pixels_of_another_order_are_told_step_by_step(card):
    image = Tensor("image", "float32", (1, 3, 64, 96))
    logits = Tensor("logits", "float32", (1, 10, 64, 96))
    wanted = Input((10.0, 20.0, 30.0), (1.0, 2.0, 3.0), 255, "BGR")
    text = card(sidecar=wanted.fields(), image=image, result=logits)
    assert (
        "3. Turn the channels from RGB to BGR. Bring pixels to 0 … 255, subtract the mean 10, 20, 30 and divide by 1, 2, 3, "
        "channel by channel (BGR), in float32."
    ) in text
    assert "4. Give it as 1 x 3 x 64 x 96 float32, channels first." in text
    assert "5. The class of a pixel is the index of its largest logit." in text
    assert "8-bit pixels and normalises them itself" not in text
    assert "Turn the channels" not in card(sidecar=Input().fields(), image=image, result=logits)


def test_an_engine_names_the_cards_that_it_runs_on(card):
    built = {"provider": "tensorrt_rtx", "provider_version": "1.7.1", "built_for": ["8.6", "8.9"]}
    assert "Built by tensorrt_rtx 1.7.1 for 8.6 and 8.9: it runs there alone" in card(sidecar=built)
    assert "Calibrated on 300 training images" in card(sidecar={"calibration_images": 300})
    assert "Calibrated" not in card()


def test_a_model_from_elsewhere_has_no_training(card):
    text = card(row={"method": "mine", "variant": None})
    assert "The comparison says nothing of a training: the model came from elsewhere." in text
    assert "(the whole model is such)" in text


def test_a_class_that_was_never_seen_is_named(card, comparison):
    classes = comparison.dataset["classes"]
    shares = [0.5] * len(classes)
    shares[1] = None
    assert f"Never measured on: {classes[1]}, which no label of the split has." in card(row={"iou_per_class": shares})
    assert "Never measured on" not in card(row={"iou_per_class": [0.5] * len(classes)})
