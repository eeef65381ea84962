"""CutMix: what is pasted where, that labels, teacher and student see the same of it, and that off is off."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from kdbench.data import open_dataset
from kdbench.data.normalisation import IMAGENET
from kdbench.errors import BadInput
from kdbench.runs.tree import RunTree
from tests.trainings import CPU, equal, history, interrupt_after, teaching, wanted_by
from trainers.augmentation import Augmentation, augment, draw, moves
from trainers.batches import TrainingBatches, hide_labels
from trainers.cutmix import Pastes, draw_pastes, paste, with_sources
from trainers.images import TrainingImages
from trainers.recipe import Recipe, TeacherRecipe, load_recipe, variant_name
from trainers.steps import teacher_taps
from trainers.view_making import images_and_views

MOVED = {"scale_min": 0.6, "scale_max": 1.8}
SIZE = (64, 96)


@pytest.fixture(scope="module")
def train_set(folder_dataset):
    return open_dataset("folder", "train", folder_dataset)


def batches_of(train_set, *, distils=False, device=CPU, **changes):
    recipe = Recipe(**{"size": SIZE, "batch_size": 4, **MOVED, **changes})
    images = TrainingImages(train_set, recipe.view_size, None, device)
    return TrainingBatches(images, recipe, unlabelled=distils, view=IMAGENET if distils else None)


def rectangle(mixed, plain, at):
    """(top, bottom, left, right) of what was pasted into image ``at`` and the image that it is of; None of nothing.

    Outside of it image and label are those of the plain batch, and inside those of another of its images.
    """
    images, labels = plain
    differs = (mixed[0] != images[at]).any(0) | (mixed[1] != labels[at])
    if not differs.any():
        return None
    rows, columns = differs.any(1).nonzero().flatten(), differs.any(0).nonzero().flatten()
    box = (rows[0].item(), rows[-1].item() + 1, columns[0].item(), columns[-1].item() + 1)
    inside = (..., slice(*box[:2]), slice(*box[2:]))
    [source] = [
        other
        for other in range(len(images))
        if other != at
        and torch.equal(mixed[0][inside], images[other][inside])
        and torch.equal(mixed[1][inside], labels[other][inside])
    ]
    return box, source


# What is drawn


def test_half_of_an_image_in_many_proportions_whole_within_it():
    count, (height, width) = 4000, SIZE
    recipe = Recipe(size=SIZE, cutmix=0.3)
    pastes = draw_pastes(count, recipe, torch.Generator().manual_seed(0))
    pasted = pastes.source != torch.arange(count)
    assert pasted.float().mean().item() == pytest.approx(0.3, abs=0.03)
    top, bottom, left, right = pastes.box.T
    assert top.min() == left.min() == 0
    assert (bottom.max(), right.max()) == SIZE
    area = (bottom - top) * (right - left) / (height * width)
    assert (area - 0.5).abs().max() < 0.5 * 64 / (64 * 96), "to half a column"
    rows = (bottom - top) / height
    assert rows.min() == pytest.approx(0.5, abs=0.02)
    assert rows.max() == 1
    assert rows.log2().mean().item() == pytest.approx(-0.5, abs=0.02)  # log-uniform from a half to 1
    for start, end, side in ((top, bottom, height), (left, right, width)):
        free = side - (end - start)
        place = (start / free)[free > side / 10]  # uniform from one edge to the other
        assert place.mean().item() == pytest.approx(0.5, abs=0.03)
        assert place.std().item() == pytest.approx(12**-0.5, abs=0.03)
    assert pastes.source[pasted].float().mean().item() == pytest.approx(count / 2, rel=0.05)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_none_or_all(cutmix):
    pastes = draw_pastes(50, Recipe(size=SIZE, cutmix=cutmix), torch.Generator().manual_seed(1))
    assert ((pastes.source != torch.arange(50)) == bool(cutmix)).all()
    assert set(pastes.source.tolist()) <= set(range(50))


def test_of_two_images_each_gets_the_others():
    pastes = draw_pastes(2, Recipe(size=SIZE, cutmix=1), torch.Generator().manual_seed(0))
    assert pastes.source.tolist() == [1, 0]


def test_images_that_take_from_one_another_alone():
    apart = [1, 4, 6]
    sources = {image: set() for image in range(8)}
    for seed in range(60):
        pastes = draw_pastes(8, Recipe(size=SIZE, cutmix=1), torch.Generator().manual_seed(seed), apart)
        for image, source in enumerate(pastes.source.tolist()):
            sources[image].add(source)
    for image, seen in sources.items():
        assert seen == (set(apart) if image in apart else set(range(8))) - {image}
    lonely = draw_pastes(8, Recipe(size=SIZE, cutmix=1), torch.Generator().manual_seed(0), [5])
    assert lonely.source[5] == 5


# What is pasted


def test_by_hand():
    """Rows 1 and 2, columns 0 and 1 of a second image of 4 x 3 pixels, into the first; the second stays."""
    images = torch.stack([torch.zeros(1, 4, 3), torch.arange(12.0).view(1, 4, 3)])
    labels = torch.stack([torch.zeros(4, 3), torch.full((4, 3), 254.0)])
    mixed, target = paste(images, labels, Pastes(torch.tensor([1, 1]), torch.tensor([[1, 3, 0, 2], [0, 4, 0, 3]])))
    assert mixed[0, 0].tolist() == [[0, 0, 0], [3, 4, 0], [6, 7, 0], [0, 0, 0]]
    assert target[0].tolist() == [[0, 0, 0], [254, 254, 0], [254, 254, 0], [0, 0, 0]]
    assert torch.equal(mixed[1], images[1])


def test_contrast_and_colour_are_those_of_the_image_that_is_pasted_into():
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    images[1] = 180
    shade = torch.tensor([0.5, -0.3]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    contrast = torch.tensor([1.2, 0.7]).view(2, 1, 1, 1)
    drawn = Augmentation(torch.ones(2), torch.ones(2), torch.zeros(2, 2), contrast, shade)
    pastes = Pastes(torch.tensor([1]), torch.tensor([[0, 4, 2, 4]]))
    mixed, _ = augment(images, torch.zeros(2, 4, 4, dtype=torch.uint8), drawn, False, IMAGENET, pastes)
    assert mixed.shape == (1, 3, 4, 4)
    for column, level in ((0, 100), (3, 180)):
        by_hand = 1.2 * (level / 255 - IMAGENET.mean[1]) / IMAGENET.std[1] + 0.5
        assert mixed[0, 1, 2, column].item() == pytest.approx(by_hand, abs=1e-5)


def test_all_else_is_as_without_and_label_and_image_are_pasted_at_one_place(train_set):
    plain, mixed = (batches_of(train_set, cutmix=cutmix) for cutmix in (0.0, 0.7))
    found = []
    for epoch in range(6):
        for before, after in zip(plain.epoch(epoch), mixed.epoch(epoch), strict=True):
            for at in range(4):
                pair = after.images[at], after.labels[at]
                found.append(rectangle(pair, (before.images, before.labels), at))
    boxes = [box for box, _ in filter(None, found)]
    assert 0.5 < len(boxes) / len(found) < 0.9
    areas = [(bottom - top) * (right - left) / (64 * 96) for top, bottom, left, right in boxes]
    assert sorted(areas)[len(areas) // 2] == pytest.approx(0.5, abs=0.02)  # padding that both have hides some of it
    assert max(areas) < 0.51


def test_the_students_image_is_the_exact_reduction_of_the_mixed_view(train_set):
    settings = {"size": (32, 48), "teacher": TeacherRecipe(size=SIZE), "distils": True}
    plain, mixed = (batches_of(train_set, cutmix=cutmix, **settings) for cutmix in (0.0, 1.0))
    pasted = 0
    for before, after in zip(plain.epoch(0), mixed.epoch(0), strict=True):
        assert torch.equal(after.images, F.avg_pool2d(after.view, 2))
        for at in range(4):
            # With a side within a student's pixel this would be the mean of two images, and of neither.
            small = rectangle((after.images[at], after.labels[at]), (before.images, before.labels), at)
            nothing = torch.zeros(4, *SIZE)
            large = rectangle((after.view[at], nothing[0]), (before.view, nothing), at)
            assert small is not None
            assert small[1] == large[1]
            pasted += 1
    assert pasted == 8


def test_labels_that_are_not_used_stay_so_where_they_are_pasted(train_set):
    settings = {"labelled": 0.5, "distils": True}
    plain, mixed = (batches_of(train_set, cutmix=cutmix, **settings) for cutmix in (0.0, 1.0))
    both = 0
    for epoch in range(4):
        for before, after in zip(plain.epoch(epoch), mixed.epoch(epoch), strict=True):
            blind = [254 in label for label in before.labels]
            for at in range(4):
                found = rectangle((after.images[at], after.labels[at]), (before.images, before.labels), at)
                (top, bottom, left, right), source = found
                inside = torch.zeros(SIZE, dtype=torch.bool)
                inside[top:bottom, left:right] = True
                for part, image in ((inside, source), (~inside, at)):
                    values = set(after.labels[at][part].unique().tolist())
                    assert values <= {254, 255} if blind[image] else 254 not in values
                both += blind[at] != blind[source]
    assert both > 4
    baseline = batches_of(train_set, cutmix=1.0, labelled=0.5)
    for batch in baseline.epoch(0):
        assert 254 not in batch.labels


# What it depends on


def test_off_is_what_there_was_before(train_set):
    """The epoch written out as it was: order, augmentation and hidden labels to the last bit."""
    settings = {"jitter": 0.3, "labelled": 0.5, "seed": 3, "distils": True}
    batches = batches_of(train_set, **settings)
    generator = torch.Generator().manual_seed(3 * 1_000_003 + 2)
    order = torch.randperm(8, generator=generator).tolist()
    drawn = [draw(4, batches.recipe, generator) for _ in range(2)]
    for step, batch in enumerate(batches.epoch(2)):
        chunk = order[4 * step : 4 * step + 4]
        images, labels = batches._images.gather(chunk)
        hide_labels(labels, chunk, {0, 2, 4, 6})
        expected, target = augment(images, labels, drawn[step], moves(drawn[step]))
        assert torch.equal(batch.images, expected)
        assert torch.equal(batch.labels, target)


@pytest.mark.parametrize("cutmix", [0.4, 1.0])
def test_two_processes_share_the_batch_of_one(train_set, monkeypatch, cutmix):
    settings = {"cutmix": cutmix, "jitter": 0.3, "labelled": 0.5, "distils": True, "batch_size": 5}
    whole = list(batches_of(train_set, **settings).epoch(1))
    monkeypatch.setattr("trainers.batches.world_size", lambda: 2)
    for process in (0, 1):
        monkeypatch.setattr("trainers.batches.rank", lambda process=process: process)
        for batch, expected in zip(batches_of(train_set, **settings).epoch(1), whole, strict=True):
            assert torch.equal(batch.images, expected.images[process::2])
            assert torch.equal(batch.labels, expected.labels[process::2])


@pytest.mark.gpu
@pytest.mark.parametrize("processes", [1, 2])
def test_a_gpu_makes_the_batches_of_the_cpu(train_set, monkeypatch, processes):
    """Without zoom and flip, which a GPU rounds otherwise. All have one shape, as recorded steps need it."""
    monkeypatch.setattr("trainers.batches.world_size", lambda: processes)
    still = {"cutmix": 0.5, "jitter": 0.3, "scale_min": 1.0, "scale_max": 1.0, "flip": False}
    ours, theirs = (batches_of(train_set, device=torch.device(device), **still) for device in ("cuda", "cpu"))
    for epoch in range(3):
        for batch, expected in zip(ours.epoch(epoch), theirs.epoch(epoch), strict=True):
            assert batch.images.shape == (4 // processes, 3, *SIZE)
            assert torch.equal(batch.labels.cpu(), expected.labels)
            torch.testing.assert_close(batch.images.cpu(), expected.images, atol=1e-5, rtol=1e-5)


def test_a_process_makes_what_it_pastes_from_beside_its_own():
    pastes = Pastes(torch.tensor([0, 4, 2, 1, 4, 5]), torch.arange(24).view(6, 4))
    needed, own = with_sources([1, 3, 5], pastes)
    assert needed == [1, 3, 5, 4]
    assert own.source.tolist() == [3, 0, 2]  # of image 4, of image 1, its own
    assert own.box[:, 0].tolist() == [4, 12, 20]


# Views that are made once


def test_views_hold_the_mixture_and_what_the_teacher_says_of_it(train_set, tmp_path):
    def shown(folder, distils, **changes):
        recipe = Recipe(
            size=SIZE, batch_size=4, views=2, precision="fp32", teacher_precision="fp32", **MOVED, **changes
        )
        images, views = images_and_views(wanted_by(train_set, folder, recipe, teacher))
        batches = TrainingBatches(images, recipe, unlabelled=distils, view=IMAGENET if distils else None, views=views)
        return recipe, [batch for epoch in range(2) for batch in batches.epoch(epoch)]

    teacher = teaching()
    _, plain = shown(tmp_path, True, labelled=0.5)
    recipe, mixed = shown(tmp_path, True, labelled=0.5, cutmix=1.0)
    assert len(list(tmp_path.glob("*/"))) == 2
    for epoch in (slice(2), slice(2, 4)):  # each shows every image once, by one number of its views
        before = [torch.cat([getattr(batch, part) for batch in plain[epoch]]) for part in ("images", "labels")]
        after = [torch.cat([getattr(batch, part) for batch in mixed[epoch]]) for part in ("images", "labels")]
        blind = [254 in label for label in before[1]]
        for at in range(8):
            _, source = rectangle((after[0][at], after[1][at]), before, at)
            assert blind[at] or not blind[source], "the baseline is shown labelled images"
    for batch in mixed:
        said = teacher_taps(teacher.model, batch.images, recipe)
        torch.testing.assert_close(batch.taps.logits, said.logits, atol=2e-3, rtol=2e-3)
    _, baseline = shown(tmp_path, False, labelled=0.5, cutmix=1.0)
    assert not any(254 in batch.labels for batch in baseline)


# By the command line


@pytest.fixture
def runs(trained_runs, tmp_path):
    shutil.copytree(trained_runs / "folder" / "teacher", tmp_path / "runs" / "folder" / "teacher")
    return tmp_path / "runs"


def test_resumed_it_has_the_weights_of_an_uninterrupted_run(kdbench, tiny_arguments, runs, tmp_path, monkeypatch):
    whole = shutil.copytree(runs, tmp_path / "whole")
    command = ["train", *tiny_arguments, "--method", "baseline,dist", "--cutmix", "0.5", "--epochs", "3", "--runs"]
    assert kdbench(*command, whole).code == 0
    interrupt_after(monkeypatch, "save_state", 2)
    assert kdbench(*command, runs).code == 130
    monkeypatch.undo()
    assert kdbench(*command, runs, "--resume").code == 0
    for method in ("baseline", "dist"):
        one, two = (RunTree(root, "folder", "cutmix=0.5").folder(method) for root in (whole, runs))
        assert history(one.path) == history(two.path)
        assert equal(load_file(one.checkpoint), load_file(two.checkpoint))
        assert json.loads(two.sidecar.read_text())["recipe"]["cutmix"] == 0.5
    assert not (RunTree(runs, "folder", "cutmix=0.5").root / "cutmix=0.5" / "teacher").exists()


def test_its_trainings_lie_apart_and_its_teacher_is_the_usual_one(tmp_path):
    recipe = load_recipe("folder", {"cutmix": 0.5})
    assert variant_name("folder", recipe) == "cutmix=0.5"
    assert recipe.for_teacher() == load_recipe("folder", {}).for_teacher()
    (tmp_path / "r.toml").write_text("cutmix = 0.5\n[teacher]\ncutmix = 0.25\n", encoding="utf-8")
    own = load_recipe(str(tmp_path / "r.toml"), {})
    assert (own.cutmix, own.for_teacher().cutmix) == (0.5, 0.25)
    with pytest.raises(BadInput, match="--cutmix: got 1.5, input should be less than or equal to 1"):
        load_recipe("folder", {"cutmix": 1.5})
