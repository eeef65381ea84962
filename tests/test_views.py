"""Views that are made once: they train as the online path does, and all seeds and methods are shown the same."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from kdbench.data import open_dataset
from kdbench.data.normalisation import IMAGENET, Input
from kdbench.errors import RunFailed
from kdbench.models.registry import build_model
from kdbench.models.segmentation import Taps
from tests.trainings import CLASSES, CPU, teaching, wanted_by
from trainers.augmentation import Augmentation, centre, converted, moves, shaded
from trainers.batches import TrainingBatches
from trainers.images import TrainingImages
from trainers.methods import Objective
from trainers.networks import say_view
from trainers.recipe import Recipe, TeacherRecipe
from trainers.steps import teacher_taps
from trainers.view_making import images_and_views, kept_of, whole_levels
from trainers.views import Shown, drawn_view

TURNED = Input((128.0, 120.0, 110.0), (50.0, 60.0, 70.0), 255, "BGR")
AUGMENTED = {"scale_min": 0.6, "scale_max": 1.8, "jitter": 0.3, "precision": "fp32", "teacher_precision": "fp32"}


@pytest.fixture(scope="module")
def train_set(folder_dataset):
    return open_dataset("folder", "train", folder_dataset)


# The same as without


def online(wanted, shown):
    """The step's images, labels and teacher's taps as they are computed when nothing was kept."""
    recipe, teacher = wanted.recipe, wanted.teaching.model
    images = TrainingImages(wanted.dataset, recipe.view_size, None, CPU)
    rows = []
    for index, view in shown:
        whole = drawn_view(images.count, view, recipe)
        drawn = Augmentation(*(values[[index]] for values in whole))
        levels, labels = whole_levels(*images.gather([index]), drawn, resample=moves(whole))
        rows.append((shaded(centre(levels, IMAGENET), drawn, IMAGENET), labels))
    view, labels = (torch.cat(values) for values in zip(*rows, strict=True))
    factor = recipe.view_size[0] // recipe.size[0]
    middle = slice(factor // 2, None, factor)
    return F.avg_pool2d(view, factor), labels[:, middle, middle], teacher_taps(teacher, view, recipe)


def loss_and_gradient(method, recipe, teacher, batch):
    torch.manual_seed(0)
    objective = Objective(build_model("student", CLASSES), method, recipe, teacher.model.tap_channels).train()
    losses = objective(*batch)
    losses["loss"].backward()
    gradient = torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])
    return {name: value.item() for name, value in losses.items()}, gradient


@pytest.fixture(scope="module", params=[None, (128, 192)], ids=["same size", "twice the side"])
def batches(request, train_set, tmp_path_factory):
    """The teacher's views, and one step's batch as they keep it and as it is computed without them. Not to be changed."""
    recipe = Recipe(size=(64, 96), views=3, teacher=TeacherRecipe(size=request.param), **AUGMENTED)
    wanted = wanted_by(train_set, tmp_path_factory.mktemp("views"), recipe, teaching())
    _, views = images_and_views(wanted)
    shown = [Shown(5, 1), Shown(0, 2), Shown(7, 1), Shown(3, 0)]
    return wanted, views.batch(shown, IMAGENET, taught=True), online(wanted, shown)


@pytest.mark.parametrize("method", ["baseline", "response", "feature", "dist", "cwd"])
def test_loss_and_gradient_are_those_of_the_online_path(batches, method):
    wanted, kept, now = batches
    assert torch.equal(kept[1], now[1])
    losses, gradient = loss_and_gradient(method, wanted.recipe, wanted.teaching, kept)
    expected, its_gradient = loss_and_gradient(method, wanted.recipe, wanted.teaching, now)
    assert losses == pytest.approx(expected, rel=1e-3)
    assert (gradient - its_gradient).norm() < 1e-3 * its_gradient.norm()


def test_a_student_that_wants_other_pixels_gets_them_from_the_same_views(train_set, tmp_path):
    recipe = Recipe(size=(64, 96), views=1, **AUGMENTED)
    _, views = images_and_views(wanted_by(train_set, tmp_path, recipe))
    shown = [Shown(0, 0), Shown(4, 0)]
    (images, labels, _), (others, same, _) = (views.batch(shown, form, taught=False) for form in (IMAGENET, TURNED))
    assert torch.equal(labels, same)
    # The very pixels that the ImageNet student gets, as they are converted for a teacher without --views.
    torch.testing.assert_close(others, converted(images, IMAGENET, TURNED))
    pixels, same_pixels = (
        form.scale * (shown * torch.tensor(form.std).view(3, 1, 1) + torch.tensor(form.mean).view(3, 1, 1))
        for form, shown in ((IMAGENET, images), (TURNED, others))
    )
    torch.testing.assert_close(same_pixels.flip(1), pixels, atol=1e-3, rtol=0)


def test_a_teacher_that_wants_other_pixels_answers_for_the_students_picture(train_set, tmp_path):
    recipe = Recipe(size=(64, 96), views=1, **AUGMENTED)
    wanted = wanted_by(train_set, tmp_path, recipe, teaching(wants=TURNED))
    _, views = images_and_views(wanted)
    shown = [Shown(5, 0), Shown(0, 0)]
    images, _, said = views.batch(shown, IMAGENET, taught=True)
    teacher = wanted.teaching.model
    expected = teacher_taps(teacher, converted(images, IMAGENET, TURNED), recipe)
    torch.testing.assert_close(said.logits, expected.logits, atol=2e-3, rtol=2e-3)  # as float16 keeps them


def test_what_has_no_place_in_float16_is_refused():
    said = Taps(torch.full((1, 2, 4, 4), 7e4), {})
    with pytest.raises(RunFailed, match="teacher's logits reach 7e\\+04, expected at most 65504"):
        kept_of(said, {"logits": (4, 4, 2)})


# Which view is shown


def batches_of(train_set, folder, *, distils, teacher=None, **changes):
    recipe = Recipe(**{"size": (64, 96), "batch_size": 4, "views": 3, **AUGMENTED, **changes})
    images, views = images_and_views(wanted_by(train_set, folder, recipe, teacher))
    view = IMAGENET if distils else None
    return TrainingBatches(images, recipe, unlabelled=distils, view=view, views=views)


def test_the_baseline_and_other_seeds_train_on_the_same_views_in_their_own_order(train_set, tmp_path):
    teacher = teaching()
    plain, taught, other = (
        batches_of(train_set, tmp_path, distils=distils, teacher=teacher, seed=seed)
        for distils, seed in ((False, 0), (True, 0), (True, 1))
    )
    for epoch in range(4):
        for a, b in zip(plain.epoch(epoch), taught.epoch(epoch), strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.labels, b.labels)
            assert a.taps is None
            assert b.taps is not None

    def sums(batches, epoch):
        return [round(image.double().sum().item(), 4) for batch in batches.epoch(epoch) for image in batch.images]

    assert sums(taught, 0) != sums(other, 0)
    assert sorted(sums(taught, 0)) == sorted(sums(other, 0))
    assert sums(taught, 3) != sums(taught, 0)  # another order
    assert sorted(sums(taught, 3)) == sorted(sums(taught, 0))
    assert not set(sums(taught, 1)) & set(sums(taught, 0))


def test_an_image_that_comes_often_is_shown_by_its_next_view_each_time(train_set, tmp_path):
    """The baseline of half the labels shows each image twice an epoch."""
    plain = batches_of(train_set, tmp_path, distils=False, labelled=0.5)
    times = Counter()
    for epoch in range(3):
        chunks = plain._chunks(torch.Generator().manual_seed(epoch))
        shown = [one for chunk in plain._shown(chunks, epoch) for one in chunk]
        assert len(shown) == len(set(shown)) == 8
        times.update(shown)
    assert times == {Shown(image, view): 2 for image in plain.labelled for view in range(3)}


def test_images_without_labels_have_views_too(train_set, tmp_path):
    zoomed_out = {"labelled": 0.5, "scale_min": 0.5, "scale_max": 0.5}
    mixed = batches_of(train_set, tmp_path, distils=True, teacher=teaching(), **zoomed_out)
    plain = batches_of(train_set, tmp_path, distils=False, **zoomed_out)
    labels = torch.cat([batch.labels for batch in mixed.epoch(0)])
    blind = [254 in label for label in labels]
    assert sum(blind) == 4
    assert all(
        set(label.unique().tolist()) == {254, 255} for label, is_blind in zip(labels, blind, strict=True) if is_blind
    )
    assert not any((batch.labels == 254).any() for batch in plain.epoch(0))


def test_what_a_larger_view_costs_is_said(capsys):
    say_view(Recipe(size=(64, 96)))
    assert capsys.readouterr().out == ""
    say_view(Recipe(size=(64, 96), batch_size=8, teacher=TeacherRecipe(size=(128, 192))))
    said = capsys.readouterr().out
    assert "sees 128x192, 4.0 times the student's pixels" in said
    assert "a step's 8 views are 2 MiB; --views 10 makes" in said  # 8 · 128 · 192 · 3 · 4 bytes
