"""Seconds of a step: what an arm is charged for, and on a GPU the work rather than its launch."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from kdbench.models.registry import build_model
from kdbench.models.student import Student
from kdbench.progress import Bar
from trainers.arm import Arm
from trainers.batches import Batch
from trainers.clock import mark, seconds_between
from trainers.loop import train_epoch
from trainers.methods import Objective
from trainers.recipe import Recipe
from trainers.steps import Steps


def test_cpu_seconds_are_wall_clock():
    start = mark(torch.device("cpu"))
    time.sleep(0.02)
    assert 0.02 <= seconds_between(start, mark(torch.device("cpu"))) < 2


@pytest.mark.gpu
def test_gpu_seconds_are_those_of_the_work_and_marking_does_not_wait():
    device = torch.device("cuda")
    x = torch.randn(8192, 8192, device=device)
    (x @ x).sum().item()
    before = time.perf_counter()
    start = mark(device)
    for _ in range(50):
        x @ x
    end = mark(device)
    launched = time.perf_counter() - before
    seconds = seconds_between(start, end)
    finished = time.perf_counter() - before
    assert launched < 0.5 * seconds
    assert 0.5 * finished < seconds <= finished


def test_a_distilled_arm_is_charged_the_teachers_pass_and_the_baseline_is_not(tmp_path, monkeypatch):
    """The teacher takes a quarter of a second here, which the arms share and each distilled one pays in full."""
    recipe = Recipe(size=(64, 64))
    teacher = build_model("fpn_resnet18", 5).eval().requires_grad_(False)
    taps = teacher.taps

    def slow(images):
        time.sleep(0.25)
        return taps(images)

    monkeypatch.setattr(teacher, "taps", slow)
    arms = [
        Arm(method, Objective(Student(5), method, recipe, teacher.tap_channels), recipe, tmp_path / method, {}, 2)
        for method in ("baseline", "cwd", "dist", "combined")
    ]
    images = torch.randn(2, 3, 64, 64)
    batch = Batch(images, torch.randint(0, 5, (2, 64, 64)), images)
    batches = SimpleNamespace(steps_per_epoch=2, epoch=lambda epoch: iter([batch, batch]))
    train_epoch(arms, Steps(arms, teacher), batches, 0, Bar("", None, None))
    baseline, *distilled = (arm.seconds for arm in arms)
    assert baseline > 0
    assert all(seconds >= 2 * 0.25 for seconds in distilled)
    assert baseline < min(distilled)
