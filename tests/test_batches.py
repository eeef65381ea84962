"""Training batches: what they depend on, and that augmentation moves image and label together."""

import pytest
import torch

from kdbench.data import open_dataset
from trainers.batches import TrainingBatches
from trainers.recipe import Recipe


@pytest.fixture(scope="module")
def train_set(folder_dataset):
    return open_dataset("folder", "train", folder_dataset)


def batches(train_set, **changes):
    return TrainingBatches(train_set, Recipe(size=(64, 96), batch_size=3, **changes), torch.device("cpu"))


def test_batches_depend_on_seed_and_epoch_alone(train_set):
    settings = {"scale_min": 0.5, "scale_max": 2.0, "jitter": 0.3}
    first, again = batches(train_set, **settings), batches(train_set, **settings)
    list(again.epoch(0))
    for (a, x), (b, y) in zip(first.epoch(1), again.epoch(1), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(x, y)
    other = next(iter(batches(train_set, seed=1, **settings).epoch(1)))
    assert not torch.equal(next(iter(first.epoch(1)))[0], other[0])


def test_decoding_when_needed_gives_the_same_batches(train_set):
    cached, streamed = batches(train_set), batches(train_set)
    streamed._cache = None
    for (a, x), (b, y) in zip(cached.epoch(0), streamed.epoch(0), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(x, y)


def test_an_epoch_shows_each_image_at_most_once_in_whole_batches(train_set):
    plain = batches(train_set, flip=False)
    images = torch.cat([images for images, _ in plain.epoch(0)])
    assert len(images) == 6  # 8 images, batches of 3: the last 2 are left out
    assert len({image.sum().item() for image in images}) == 6


def test_without_augmentation_pixels_are_the_backends_preprocessing(train_set):
    from kdbench.data.preprocessing import normalise

    known = {normalise(train_set[i].image[None])[0].sum().round(0): i for i in range(len(train_set))}
    images, labels = next(iter(batches(train_set, flip=False).epoch(0)))
    for image, label in zip(images, labels, strict=True):
        index = known[image.numpy().sum().round(0)]
        torch.testing.assert_close(
            image, torch.from_numpy(normalise(train_set[index].image[None])[0]), atol=1e-4, rtol=0
        )
        assert (label.numpy() == train_set[index].label).all()


def test_augmented_labels_move_with_their_image(train_set):
    """A scene whose label is its own red channel must stay so under zoom, crop and flip (away from edges)."""
    from trainers.batches import augment, draw

    grid = torch.arange(64).view(1, 1, -1).expand(4, 64, 64).to(torch.uint8)
    images = grid[:, None].expand(4, 3, 64, 64).clone()
    recipe = Recipe(size=(64, 64), scale_min=0.5, scale_max=2.0)
    pixels, labels = augment(images, grid.clone(), draw(4, recipe, torch.Generator().manual_seed(5)))
    red = pixels[:, 0] * 255 * 0.229 + 255 * 0.485
    inside = labels != 255
    assert 0.3 < inside.float().mean() <= 1
    difference = (red - labels).abs()[inside]
    assert (difference < 0.75).float().mean() > 0.95  # pixels at the padding's edge mix with it


def test_padding_is_ignored(train_set):
    from trainers.batches import augment, draw

    images = torch.full((2, 3, 64, 64), 200, dtype=torch.uint8)
    labels = torch.zeros(2, 64, 64, dtype=torch.uint8)
    recipe = Recipe(size=(64, 64), scale_min=0.5, scale_max=0.5, flip=False)
    pixels, target = augment(images, labels, draw(2, recipe, torch.Generator().manual_seed(0)))
    assert set(target.unique().tolist()) == {0, 255}
    assert (target == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert (pixels[:, 0][target == 255] == 0).float().mean() > 0.95


def test_class_weights_are_median_frequency(train_set):
    weights = batches(train_set).class_frequencies()
    assert weights.max() <= 5
    assert weights[0] == weights[weights > 0].min()  # the background is the most frequent
