"""Training batches: what they depend on, and that augmentation moves image and label together."""

import pytest
import torch

from kdbench.data import open_dataset
from kdbench.errors import BadInput
from trainers.batches import TrainingBatches, evenly_spaced
from trainers.images import TrainingImages
from trainers.recipe import Recipe, TeacherRecipe


@pytest.fixture(scope="module")
def train_set(folder_dataset):
    return open_dataset("folder", "train", folder_dataset)


def batches(train_set, unlabelled=False, **changes):
    recipe = Recipe(**{"size": (64, 96), "batch_size": 3, **changes})
    images = TrainingImages(train_set, recipe.view_size, recipe.images, torch.device("cpu"))
    return TrainingBatches(images, recipe, unlabelled=unlabelled)


def test_batches_depend_on_seed_and_epoch_alone(train_set):
    settings = {"scale_min": 0.5, "scale_max": 2.0, "jitter": 0.3}
    first, again = batches(train_set, **settings), batches(train_set, **settings)
    list(again.epoch(0))
    for (a, x, *_), (b, y, *_) in zip(first.epoch(1), again.epoch(1), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(x, y)
    other = next(iter(batches(train_set, seed=1, **settings).epoch(1)))
    assert not torch.equal(next(iter(first.epoch(1)))[0], other[0])


def test_decoding_when_needed_gives_the_same_batches(train_set):
    cached, streamed = batches(train_set), batches(train_set)
    streamed._images._decoded = None
    for (a, x, *_), (b, y, *_) in zip(cached.epoch(0), streamed.epoch(0), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(x, y)


def test_an_epoch_shows_each_image_at_most_once_in_whole_batches(train_set):
    plain = batches(train_set, flip=False)
    images = torch.cat([batch.images for batch in plain.epoch(0)])
    assert len(images) == 6  # 8 images, batches of 3: the last 2 are left out
    assert len({image.sum().item() for image in images}) == 6


def test_without_augmentation_pixels_are_the_backends_preprocessing(train_set):
    from kdbench.data.preprocessing import normalise

    known = {normalise(train_set[i].image[None])[0].sum().round(0): i for i in range(len(train_set))}
    images, labels, *_ = next(iter(batches(train_set, flip=False).epoch(0)))
    for image, label in zip(images, labels, strict=True):
        index = known[image.numpy().sum().round(0)]
        torch.testing.assert_close(
            image, torch.from_numpy(normalise(train_set[index].image[None])[0]), atol=1e-4, rtol=0
        )
        assert (label.numpy() == train_set[index].label).all()


def test_augmented_labels_move_with_their_image(train_set):
    """A scene whose label is its own red channel must stay so under zoom, crop and flip (away from edges)."""
    from trainers.augmentation import augment, draw

    grid = torch.arange(64).view(1, 1, -1).expand(4, 64, 64).to(torch.uint8)
    images = grid[:, None].expand(4, 3, 64, 64).clone()
    recipe = Recipe(size=(64, 64), scale_min=0.5, scale_max=2.0)
    pixels, labels = augment(images, grid.clone(), draw(4, recipe, torch.Generator().manual_seed(5)), True)
    red = pixels[:, 0] * 255 * 0.229 + 255 * 0.485
    inside = labels != 255
    assert 0.3 < inside.float().mean() <= 1
    difference = (red - labels).abs()[inside]
    assert (difference < 0.75).float().mean() > 0.95  # pixels at the padding's edge mix with it


def test_padding_is_ignored(train_set):
    from trainers.augmentation import augment, draw

    images = torch.full((2, 3, 64, 64), 200, dtype=torch.uint8)
    labels = torch.zeros(2, 64, 64, dtype=torch.uint8)
    recipe = Recipe(size=(64, 64), scale_min=0.5, scale_max=0.5, flip=False)
    pixels, target = augment(images, labels, draw(2, recipe, torch.Generator().manual_seed(0)), True)
    assert set(target.unique().tolist()) == {0, 255}
    assert (target == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert (pixels[:, 0][target == 255] == 0).float().mean() > 0.95


def test_class_weights_are_median_frequency(train_set):
    assert batches(train_set).class_weights is None
    weights = batches(train_set, class_weights=True).class_weights
    assert weights.max() <= 5
    assert weights[0] == weights[weights > 0].min()  # the background is the most frequent


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(8, 0.25, [0, 4]), (8, 0.5, [0, 2, 4, 6]), (5, 0.01, [0, 2]), (3, 1, [0, 1, 2])]
)
def test_labelled_images_are_evenly_spaced(count, share, expected):
    assert evenly_spaced(count, share) == expected


def test_images_without_labels_are_in_the_distilled_arms_batches_alone(train_set):
    settings = {"flip": False, "labelled": 0.5, "batch_size": 2}
    own, mixed = batches(train_set, **settings), batches(train_set, unlabelled=True, **settings)
    assert own.steps_per_epoch == mixed.steps_per_epoch == 4
    whole = {image.sum().item(): i for i, image in enumerate(torch.cat([b.images for b in unshuffled(train_set)]))}
    for kind, expected in ((own, [0, 2, 4, 6] * 2), (mixed, range(8))):
        seen = [
            (whole[image.sum().item()], label)
            for batch in kind.epoch(3)
            for image, label in zip(*batch[:2], strict=True)
        ]
        assert sorted(index for index, _ in seen) == sorted(expected)
        for index, label in seen:
            assert (set(label.unique().tolist()) == {254}) == (index % 2 == 1)
    both = [batches(train_set, unlabelled=kind, class_weights=True, **settings).class_weights for kind in (False, True)]
    assert torch.equal(*both)


def unshuffled(train_set):
    """Batches of one image each, in the split's order."""
    images = TrainingImages(train_set, (64, 96), None, torch.device("cpu"))
    plain = TrainingBatches(images, Recipe(size=(64, 96), batch_size=2, flip=False))
    for index in range(8):
        gathered = images.gather([index])
        from trainers.augmentation import Augmentation, augment

        still = Augmentation(
            torch.ones(1), torch.ones(1), torch.zeros(1, 2), torch.ones(1, 1, 1, 1), torch.zeros(1, 3, 1, 1)
        )
        yield plain._batch(*augment(*gathered, still, False))


def test_padding_of_an_image_without_labels_is_padding(train_set):
    zoomed_out = {"scale_min": 0.5, "scale_max": 0.5, "flip": False, "labelled": 0.25}
    found = {
        v
        for batch in batches(train_set, unlabelled=True, **zoomed_out).epoch(0)
        for v in batch.labels[:, :8].unique().tolist()
    }
    assert 255 in found
    assert 254 not in found, "the first rows are outside of an image at half its size"


def test_the_students_image_is_the_exact_reduction_of_the_teachers_view(train_set):
    settings = {"scale_min": 0.6, "scale_max": 1.8, "jitter": 0.3}
    small = batches(train_set, size=(32, 48), teacher=TeacherRecipe(size=(64, 96)), **settings)
    alone = batches(train_set, size=(64, 96), **settings)
    for batch, same in zip(small.epoch(0), alone.epoch(0), strict=True):
        assert torch.equal(batch.view, same.images)
        assert batch.images.shape == (3, 3, 32, 48)
        by_hand = batch.view[1, 2, 10:12, 20:22].mean()
        assert batch.images[1, 2, 5, 10].item() == pytest.approx(by_hand.item(), abs=1e-5)
        assert batch.labels[1, 5, 10] == same.labels[1, 11, 21]


@pytest.mark.parametrize(("share", "without"), [(0.05, 0), (0.9, 4)])
def test_a_share_that_no_step_can_have_is_refused(train_set, share, without):
    with pytest.raises(BadInput, match=f"unlabelled_share: got {share} of 4 images a step, which is {without} without"):
        batches(train_set, unlabelled=True, labelled=0.5, batch_size=4, unlabelled_share=share)


def test_a_share_of_every_step_has_no_label(train_set):
    """Of 8 images 4 have labels; a step of 4 holds 3 without, each as often as another."""
    settings = {"flip": False, "labelled": 0.5, "batch_size": 4, "unlabelled_share": 0.75}
    mixed = batches(train_set, unlabelled=True, **settings)
    assert mixed.step_images == {"labelled": 1, "unlabelled": 3}
    assert mixed.steps_per_epoch == 2
    known, times = set(mixed.labelled), dict.fromkeys(range(8), 0)
    for epoch in range(4):
        for chunk in mixed._chunks(torch.Generator().manual_seed(epoch)):
            assert sum(index in known for index in chunk) == 1
            for index in chunk:
                times[index] += 1
        for batch in mixed.epoch(epoch):
            assert sum(254 in label for label in batch.labels) == 3
    assert all(4 <= times[index] <= 8 for index in range(8) if index not in known)
    plain = batches(train_set, **settings)  # the baseline's: labelled images alone
    assert plain.step_images == {"labelled": 4, "unlabelled": 0}
    assert not any((batch.labels == 254).any() for batch in plain.epoch(0))
