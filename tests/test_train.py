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

from kdbench.models.segmentation import parameter_count
from kdbench.models.student import Student
from tests import forking
from tests.conftest import REPOSITORY
from tests.trainings import equal, history, interrupt_after


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
    forking.run([*command, "--runs", whole], check=True)
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
    assert history(folders[0]) == history(folders[1])


def test_resume_under_another_recipe_is_refused(kdbench, arguments, tmp_path, monkeypatch):
    interrupt_after(monkeypatch, "save_state", 1)
    done = kdbench("train", "--method", "baseline", "--runs", tmp_path, *arguments)
    assert done.code == 130
    assert done.err.strip().splitlines()[-1].endswith("go on with the same command and --resume")
    monkeypatch.undo()
    done = kdbench("train", "--method", "baseline", "--lr", "0.5", "--resume", "--runs", tmp_path, *arguments)
    assert done.code == 2
    assert "--resume: baseline was started with another recipe (lr 0.001 → 0.5): give the same flags" in done.err
    # As what was finished with other settings, what was begun with others is trained anew where that is agreed to.
    command = (
        "train",
        "--method",
        "baseline",
        "--lr",
        "0.5",
        "--resume",
        "--overwrite",
        "--runs",
        tmp_path,
        *arguments,
    )
    done = kdbench(*command)
    assert done.code == 0, done.err
    assert "give the same flags, or train without --resume: training anew" in done.err


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(kdbench, arguments, tmp_path, monkeypatch):
    from trainers import loop

    healthy = loop.train_epoch

    def poison(arms, steps, batches, epoch, bar):
        if epoch == 1:
            with torch.no_grad():
                arms[0].objective.model.classifier.weight.fill_(float("nan"))
        healthy(arms, steps, batches, epoch, bar)

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
        (["--method", "baseline", "--lr", "-1", "--epochs", "0"], "--epochs: got 0"),
        (["--method", "baseline", "--lr", "-1", "--epochs", "0"], "--lr: got -1.0"),
        (
            ["--method", "baseline", "--match", "cwd"],
            "--match cwd: got --method baseline, expected baseline-long among",
        ),
        (["--method", "baseline-long", "--match", "teacher"], "--match: got 'teacher', expected one of response, feat"),
        (["--method", "baseline", "--device", "tpu"], "--device: got 'tpu', expected auto, cpu or cuda"),
        (["--method", "baseline", "--kl-reduction", "sum"], "--kl-reduction: got 'sum'"),
    ],
)
def test_bad_flags_are_one_line(kdbench, arguments, tmp_path, flags, message):
    done = kdbench("train", "--runs", tmp_path, *arguments, *flags)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--lr", "--alpha", "--beta", "--gamma", "--temperature"])
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
def test_numbers_that_are_not_finite_are_refused_by_their_flag(kdbench, arguments, tmp_path, flag, value):
    done = kdbench("train", "--method", "baseline", "--runs", tmp_path, *arguments, f"{flag}={value}")
    assert done.code == 2
    got = str(float(value))
    assert done.err == (
        f"kdbench: recipe 'tiny.toml' with the flags given: {flag}: got {got}, input should be a finite number\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "weights", "method"),
    [
        (["--method", "all", "--alpha", "0"], "alpha", "teacher"),
        (["--method", "imitation", "--beta", "0"], "beta", "imitation"),
        (["--method", "response", "--alpha", "0", "--beta", "0"], "alpha and beta", "response"),
    ],
)
def test_a_method_that_could_learn_from_nothing_is_refused(kdbench, arguments, tmp_path, flags, weights, method):
    """With α = 0 a teacher would be written as it began, and every student would learn from it."""
    done = kdbench("train", "--runs", tmp_path, *arguments, *flags)
    assert done.code == 2
    assert f"{weights}: got 0, expected more than 0 for '{method}', which learns from nothing else" in done.err
    assert not list(tmp_path.rglob("*.safetensors"))


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


def test_another_architecture_than_the_teachers_is_one_line(kdbench, arguments, trained_runs):
    done = kdbench("train", "--method", "response", "--teacher", "fcn_resnet50", "--runs", trained_runs, *arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    found = json.loads((trained_runs / "folder" / "teacher" / "teacher.json").read_text())["arch"]
    assert f"--teacher: got 'fcn_resnet50', but the teacher '{trained_runs}" in line
    assert f"is a {found}: leave --teacher out to learn from it, or add teacher to --method" in line
