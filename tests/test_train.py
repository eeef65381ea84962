"""``kdbench train``: what it writes, that arms are comparable, that it can be killed, and how it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from kdbench.data import open_dataset
from kdbench.errors import BadInput
from kdbench.models.segmentation import parameter_count
from kdbench.models.student import Student
from tests.conftest import REPOSITORY
from trainers.arm import lr_factor
from trainers.batches import TrainingBatches
from trainers.recipe import RECIPES, Recipe, load_recipe


@pytest.fixture(scope="module")
def arguments(tiny_arguments):
    return tiny_arguments


@pytest.fixture(scope="module")
def trained_all(trained_runs, tmp_path_factory):
    """A copy of the trained tree that this module's tests train on in."""
    runs = tmp_path_factory.mktemp("train") / "runs"
    shutil.copytree(trained_runs, runs)
    return runs / "folder"


def sidecar(tree, method):
    return json.loads((tree / method / "student.json").read_text())


def weights(path):
    return load_file(path)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_train_all_writes_checkpoint_sidecar_history_and_tensorboard(trained_all):
    for method in ("baseline", "response", "feature", "combined"):
        about = sidecar(trained_all, method)
        assert about["schema_version"] == 1
        assert (about["epoch"], about["epochs"], about["steps"]) == (2, 2, 4)
        assert about["params"] == parameter_count(Student(10))
        history = [json.loads(line) for line in (trained_all / method / "history.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in history] == [1, 2]
        assert history[-1]["miou"] == about["miou"]
        assert list((trained_all / method / "tensorboard").iterdir())
        assert not (trained_all / method / "state.pt").exists()
    assert set(history[0]) == {"epoch", "lr", "loss", "ce", "response", "feature", "miou", "seconds"}
    assert sidecar(trained_all, "response")["teacher"]["arch"] == "fpn_resnet18"
    assert "teacher" not in sidecar(trained_all, "baseline")


def test_the_deployed_checkpoint_holds_the_student_alone(trained_all):
    saved = weights(trained_all / "feature" / "student.safetensors")
    assert saved.keys() == Student(10).state_dict().keys()


def test_arms_differ_and_a_method_alone_equals_it_beside_others(trained_all, kdbench, arguments):
    """Side by side, arms share batches and the teacher's pass and nothing else."""
    together = weights(trained_all / "feature" / "student.safetensors")
    assert not equal(together, weights(trained_all / "baseline" / "student.safetensors"))
    # Into the same tree, where the teacher is; the other arms stay as they are.
    done = kdbench("train", "--method", "feature", "--runs", trained_all.parent, *arguments)
    assert done.code == 0, done.err
    assert equal(together, weights(trained_all / "feature" / "student.safetensors"))


def test_seeds_lie_side_by_side_and_method_all_keeps_the_teacher(trained_all, kdbench, arguments):
    teacher = (trained_all / "teacher" / "teacher.safetensors").stat().st_mtime_ns
    first = weights(trained_all / "baseline" / "student.safetensors")
    done = kdbench("train", "--method", "baseline", "--seeds", "0,3", "--runs", trained_all.parent, *arguments)
    assert done.code == 0, done.err
    assert equal(first, weights(trained_all / "baseline" / "student.safetensors"))
    assert not equal(first, weights(trained_all / "baseline" / "seed-3" / "student.safetensors"))
    done = kdbench("train", "--method", "all", "--resume", "--runs", trained_all.parent, *arguments)
    assert done.code == 0, done.err
    assert (trained_all / "teacher" / "teacher.safetensors").stat().st_mtime_ns == teacher


def test_a_killed_run_resumes_to_the_same_weights_and_history(trained_all, kdbench, arguments, tmp_path):
    """SIGKILL after the first epoch of a real process, then --resume: bit for bit the uninterrupted run."""
    command = [sys.executable, "-m", "kdbench", "train", "--method", "baseline", "--epochs", "4", *map(str, arguments)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--runs", whole], cwd=REPOSITORY, check=True, capture_output=True)
    state = killed / "folder" / "baseline" / "state.pt"
    process = subprocess.Popen([*command, "--runs", killed], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    process.wait()
    assert state.exists(), "the run ended before it could be killed"
    done = kdbench("train", "--method", "baseline", "--epochs", "4", "--resume", "--runs", killed, *arguments)
    assert done.code == 0, done.err
    folders = [root / "folder" / "baseline" for root in (whole, killed)]
    assert equal(*(weights(folder / "student.safetensors") for folder in folders))
    histories = [
        [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text.splitlines()]
        for text in ((folder / "history.jsonl").read_text() for folder in folders)
    ]
    assert histories[0] == histories[1]


def test_resume_under_another_recipe_is_refused(kdbench, arguments, tmp_path, monkeypatch):
    from trainers.arm import Arm

    save = Arm.save_state

    def save_and_interrupt(arm):
        save(arm)
        raise KeyboardInterrupt

    monkeypatch.setattr(Arm, "save_state", save_and_interrupt)
    done = kdbench("train", "--method", "baseline", "--runs", tmp_path, *arguments)
    assert done.code == 130
    assert done.err.strip().splitlines()[-1].endswith("go on with the same command and --resume")
    monkeypatch.undo()
    done = kdbench("train", "--method", "baseline", "--lr", "0.5", "--resume", "--runs", tmp_path, *arguments)
    assert done.code == 2
    assert "--resume: baseline was started with another recipe (lr 0.001 → 0.5): give the same flags" in done.err


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(kdbench, arguments, tmp_path, monkeypatch):
    from trainers import loop

    healthy = loop.train_epoch

    def poison(arms, teacher, batches, epoch, bar):
        if epoch == 1:
            with torch.no_grad():
                arms[0].objective.model.classifier.weight.fill_(float("nan"))
        healthy(arms, teacher, batches, epoch, bar)

    monkeypatch.setattr(loop, "train_epoch", poison)
    done = kdbench("train", "--method", "baseline", "--runs", tmp_path, *arguments)
    assert done.code == 1
    assert done.err.strip().splitlines()[-1] == (
        "kdbench: baseline: the loss became nan in epoch 2; the checkpoint of epoch 1 is kept: "
        "try a lower --lr (was 0.001)"
    )
    kept = weights(tmp_path / "folder" / "baseline" / "student.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    assert sidecar(tmp_path / "folder", "baseline")["epoch"] == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        MemoryError(),
    ],
)
def test_out_of_memory_says_which_batch_size_to_try(kdbench, arguments, tmp_path, monkeypatch, error):
    from trainers.methods import Objective

    def forward(*_):
        raise error

    monkeypatch.setattr(Objective, "forward", forward)
    done = kdbench("train", "--method", "baseline", "--runs", tmp_path, *arguments)
    assert (done.code, done.err.strip().splitlines()[-1]) == (
        1,
        "kdbench: out of memory with --batch-size 4 at 64x64; finished epochs are kept: try --batch-size 2",
    )


def test_other_runtime_errors_keep_their_traceback(kdbench, arguments, tmp_path, monkeypatch):
    from trainers.methods import Objective

    def forward(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Objective, "forward", forward)
    with pytest.raises(RuntimeError, match="a bug"):
        kdbench("train", "--method", "baseline", "--runs", tmp_path, *arguments)


def test_a_missing_teacher_names_the_command_that_makes_it(kdbench, arguments, tmp_path):
    done = kdbench("train", "--method", "response", "--runs", tmp_path, *arguments)
    assert done.code == 2
    assert "no teacher" in done.err
    assert "make it with `kdbench train --method teacher --dataset folder" in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "distill"], "--method: got 'distill', expected all or a comma-separated list of baseline"),
        (["--method", "baseline", "--size", "16x16"], "--size: got '16x16', expected HEIGHTxWIDTH"),
        (["--method", "baseline", "--seeds", "0,x"], "--seeds: got '0,x', expected different whole numbers"),
        (["--method", "baseline", "--lr", "-1", "--epochs", "0"], "epochs: got 0"),
        (["--method", "baseline", "--lr", "-1", "--epochs", "0"], "lr: got -1.0"),
        (["--method", "baseline", "--device", "tpu"], "--device: got 'tpu', expected auto, cpu or cuda"),
        (["--method", "baseline", "--kl-reduction", "sum"], "kl_reduction: got 'sum'"),
    ],
)
def test_bad_flags_are_one_line(kdbench, arguments, tmp_path, flags, message):
    done = kdbench("train", "--runs", tmp_path, *arguments, *flags)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_complete_weights_are_the_teacher_without_training(kdbench, arguments, trained_runs, tmp_path):
    source = trained_runs / "folder" / "teacher" / "teacher.safetensors"
    done = kdbench("train", "--method", "teacher", "--weights", source, "--runs", tmp_path, *arguments)
    assert done.code == 0, done.err
    made = tmp_path / "folder" / "teacher"
    assert equal(weights(source), weights(made / "teacher.safetensors"))
    about = json.loads((made / "teacher.json").read_text())
    assert (about["epoch"], about["weights"]) == (0, str(source))
    assert about["miou"] == json.loads(source.with_suffix(".json").read_text())["miou"]
    done = kdbench("train", "--method", "all", "--runs", tmp_path, *arguments, "--epochs", "1")
    assert done.code == 0, done.err
    assert equal(weights(source), weights(made / "teacher.safetensors"))


# Recipes


def test_every_shipped_recipe_is_valid():
    names = sorted(path.stem for path in RECIPES.glob("*.toml"))
    assert {"guide", "shapes", "camvid", "voc2012", "folder", "demo"} <= set(names)
    for name in names:
        load_recipe(name, {})


def test_the_guides_preset_is_the_guides():
    guide = load_recipe("guide", {})
    assert (guide.alpha, guide.beta, guide.temperature, guide.gamma) == (1.0, 0.7, 4.0, 0.5)
    assert (guide.epochs, guide.batch_size, guide.optimizer, guide.lr) == (30, 8, "adam", 1e-3)
    assert (guide.schedule, guide.size) == ("cosine", (512, 512))
    assert (guide.kl_reduction, guide.feature_loss) == ("batchmean", "cosine")


def test_a_misspelt_field_is_named(tmp_path):
    (tmp_path / "r.toml").write_text("epoch = 3\n")
    with pytest.raises(BadInput, match="epoch: got 3, extra inputs are not permitted"):
        load_recipe(str(tmp_path / "r.toml"), {})


def test_learning_rate_schedule():
    recipe = Recipe(warmup_steps=10, schedule="cosine")
    assert lr_factor(0, 110, recipe) == pytest.approx(0.1)
    assert lr_factor(10, 110, recipe) == pytest.approx(1.0)
    assert lr_factor(60, 110, recipe) == pytest.approx(0.5)
    assert lr_factor(110, 110, recipe) == pytest.approx(0.0)
    assert lr_factor(55, 110, Recipe(schedule="poly")) == pytest.approx(0.5**0.9)


# Batches


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
    from trainers.batches import augment

    grid = torch.arange(64).view(1, 1, -1).expand(4, 64, 64).to(torch.uint8)
    images = grid[:, None].expand(4, 3, 64, 64).clone()
    recipe = Recipe(size=(64, 64), scale_min=0.5, scale_max=2.0)
    pixels, labels = augment(images, grid.clone(), recipe, torch.Generator().manual_seed(5))
    red = pixels[:, 0] * 255 * 0.229 + 255 * 0.485
    inside = labels != 255
    assert 0.3 < inside.float().mean() <= 1
    difference = (red - labels).abs()[inside]
    assert (difference < 0.75).float().mean() > 0.95  # pixels at the padding's edge mix with it


def test_padding_is_ignored(train_set):
    from trainers.batches import augment

    images = torch.full((2, 3, 64, 64), 200, dtype=torch.uint8)
    labels = torch.zeros(2, 64, 64, dtype=torch.uint8)
    recipe = Recipe(size=(64, 64), scale_min=0.5, scale_max=0.5, flip=False)
    pixels, target = augment(images, labels, recipe, torch.Generator().manual_seed(0))
    assert set(target.unique().tolist()) == {0, 255}
    assert (target == 0).float().mean() == pytest.approx(0.25, abs=0.02)
    assert (pixels[:, 0][target == 255] == 0).float().mean() > 0.95


def test_class_weights_are_median_frequency(train_set):
    weights = batches(train_set).class_frequencies()
    assert weights.max() <= 5
    assert weights[0] == weights[weights > 0].min()  # the background is the most frequent
