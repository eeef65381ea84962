"""Splits that no memory holds: the same batches from disk, class weights of a part, and what is kept for the next start."""

from __future__ import annotations

import json
import os
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

import kdbench.data.check as kdbench_check
import trainers.images
from kdbench.data import open_dataset
from kdbench.data.remembered import Remembered, fingerprint
from trainers.batches import TrainingBatches
from trainers.images import AHEAD, Beside, TrainingImages
from trainers.recipe import Recipe

SIZE = (32, 48)
CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    """Twelve training images of three classes, of which the last is in the seventh image alone."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 2)):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number in range(count):
            ids = np.zeros(SIZE, np.uint8)
            ids[: 4 + number] = 1
            ids[20:22] = 255
            if number == 7:
                ids[30:] = 2
            picture = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "images" / split / f"{split}{number:02d}.png")
            Image.fromarray(ids).save(tmp_path / "masks" / split / f"{split}{number:02d}.png")
    (tmp_path / "classes.txt").write_text("ground\nwall\nsign\n")
    return tmp_path


def images_of(root, **options):
    return TrainingImages(open_dataset("folder", "train", root), SIZE, None, CPU, Beside(**options))


def epochs(images, count=2):
    recipe = Recipe.model_validate({"size": SIZE, "batch_size": 5, "jitter": 0.3, "scale_min": 0.5, "scale_max": 2})
    batches = TrainingBatches(images, recipe)
    return [batch for epoch in range(count) for batch in batches.epoch(epoch)]


def test_batches_from_disk_are_those_from_memory(root):
    streamed, kept = images_of(root, memory=0), images_of(root)
    assert (streamed.streams, kept.streams) == (True, False)
    for ours, theirs in zip(epochs(streamed), epochs(kept), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


def test_no_more_than_the_next_batches_are_decoded(root, monkeypatch):
    """What waits in memory is bounded, however long the split is."""
    images, decoded = images_of(root, memory=0), []
    decode = images._decode
    monkeypatch.setattr(images, "_decode", lambda index: (decoded.append(index), decode(index))[1])
    for used, _ in enumerate(images.batches([[index] for index in range(12)]), start=1):
        assert len(decoded) <= used + AHEAD
    assert sorted(decoded) == list(range(12))


def test_a_stream_that_is_left_early_ends(root):
    stream = images_of(root, memory=0).batches([[0], [1], [2], [3], [4]])
    next(stream)
    before = threading.active_count()
    stream.close()
    assert threading.active_count() < before


@pytest.fixture
def no_memory(monkeypatch):
    total = psutil.virtual_memory().total
    monkeypatch.setattr(trainers.images.psutil, "virtual_memory", lambda: SimpleNamespace(available=0, total=total))


@pytest.fixture
def train(kdbench, root, tmp_path):
    """``train(runs)``: a baseline for an epoch, with class weights."""
    recipe = tmp_path / "short.toml"
    recipe.write_text(
        "size = [32, 32]\nepochs = 1\nbatch_size = 4\njitter = 0.2\nclass_weights = true\nprecision = 'fp32'\n"
    )
    return lambda runs: kdbench(
        "train", "--method", "baseline", "--dataset", "folder", "--data-root", root, "--recipe", recipe,
        "--device", "cpu", "--runs", tmp_path / runs,
    )  # fmt: skip


def test_trained_from_disk_is_trained_from_memory(train, tmp_path, request):
    assert train("memory").code == 0
    request.getfixturevalue("no_memory")
    assert train("disk").code == 0
    first, second = (
        json.loads((tmp_path / where / "folder/baseline/student.json").read_text()) for where in ("memory", "disk")
    )
    assert first["sha256"] == second["sha256"]


def test_what_the_first_epoch_cannot_read_is_named(root, train, no_memory, monkeypatch):
    monkeypatch.setattr(kdbench_check, "SAMPLE", 4)  # of which two are of this split: its first and its last image
    (root / "masks" / "train" / "train05.png").write_bytes(b"no image")
    monkeypatch.setattr(trainers.images, "WEIGHED", 2)
    done = train("runs")
    assert done.code == 2
    assert "train05.png' is not an image file that can be read" in done.err.splitlines()[-1]


# Class weights


def test_class_weights_of_many_images_are_counted_on_a_part(root, monkeypatch):
    """By hand: images 0, 4 and 8 of 12; the third class is in none of them, though it may be in others."""
    monkeypatch.setattr(trainers.images, "WEIGHED", 3)
    images = images_of(root)
    wall = np.array([4, 8, 12]) * 48
    valid = 30 * 48
    frequency = np.array([1 - wall.sum() / (3 * valid), wall.sum() / (3 * valid)])
    expected = [*(np.median(frequency) / frequency), 5.0]
    for memory in (None, 0):
        weights = images_of(root, memory=memory).class_frequencies(range(12))
        np.testing.assert_allclose(weights.numpy(), np.minimum(expected, 5), rtol=1e-6)
    assert images.class_frequencies(range(3))[2] == 0  # all of them were counted, and none has it


def test_labels_are_read_without_images(root, monkeypatch):
    images = images_of(root, memory=0)
    monkeypatch.setattr(type(images.dataset), "__getitem__", lambda *_: pytest.fail("an image was decoded"))
    assert images.class_frequencies(range(12)).shape == (3,)


# What is kept


def test_kept_until_a_file_changes(root, tmp_path):
    remembered, asked = Remembered(tmp_path / "data.json"), []

    def ask(what="weights"):
        train_set = open_dataset("folder", "train", root)
        return remembered.get(what, fingerprint(train_set), lambda: asked.append(what) or [len(asked), 0.1])

    assert ask() == ask() == [1, 0.1]
    assert ask("verdict") == [2, 0.1]
    mask = root / "masks" / "train" / "train03.png"
    os.utime(mask, (1, 1))
    assert ask() == [3, 0.1]
    shutil.copy(mask, root / "masks" / "train" / "train99.png")
    shutil.copy(root / "images" / "train" / "train03.png", root / "images" / "train" / "train99.png")
    assert ask() == [4, 0.1]
    (root / "classes.txt").write_text("ground\nwall\nsigns\n")
    assert ask() == [5, 0.1]
    (tmp_path / "data.json").write_text("{")
    assert ask() == [6, 0.1]
    assert ask() == [6, 0.1]


def test_images_that_are_no_files_are_never_kept(tmp_path):
    assert fingerprint(open_dataset("shapes", "train")) is None
    remembered = Remembered(tmp_path / "data.json")
    assert [remembered.get("x", None, answer) for answer in (lambda: 1, lambda: 2)] == [1, 2]


def test_the_second_start_reads_no_sample_and_counts_no_label(train, tmp_path, no_memory, monkeypatch):
    assert train("runs").code == 0
    first = json.loads((tmp_path / "runs/folder/baseline/student.json").read_text())
    monkeypatch.setattr(kdbench_check, "check_sample", lambda *_: pytest.fail("files were read again"))
    monkeypatch.setattr(TrainingImages, "_count_classes", lambda *_: pytest.fail("labels were counted again"))
    assert train("runs").code == 0
    again = json.loads((tmp_path / "runs/folder/baseline/student.json").read_text())
    assert again["sha256"] == first["sha256"]


def test_a_problem_is_a_problem_the_second_time_too(root, train):
    shutil.copy(root / "images" / "train" / "train00.png", root / "images" / "val" / "val00.png")
    answers = [train("runs") for _ in range(2)]
    assert [answer.code for answer in answers] == [2, 2]
    assert answers[0].err == answers[1].err
    assert "is byte for byte the train image" in answers[0].err
