"""What the tests of trainings share: Ctrl-C at a chosen moment, histories and weights to compare, and a teacher."""

from __future__ import annotations

import json
from functools import partial

import torch

from kdbench.data.normalisation import IMAGENET
from kdbench.models.registry import build_model
from trainers.arm import Arm
from trainers.images import Beside
from trainers.networks import Teaching
from trainers.views_wanted import Wanted

CPU = torch.device("cpu")
CLASSES = 10


def interrupt_after(monkeypatch, name, calls):
    """Ctrl-C right after the ``calls``-th call of a method of Arm."""
    original, count = getattr(Arm, name), []

    def wrapped(arm):
        original(arm)
        count.append(1)
        if len(count) == calls:
            raise KeyboardInterrupt

    monkeypatch.setattr(Arm, name, wrapped)


def history(folder):
    """Without the seconds, which are others in each run."""
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def teaching(seed=1, wants=IMAGENET):
    torch.manual_seed(seed)
    teacher = build_model("fpn_resnet18", CLASSES).eval().requires_grad_(False)
    teacher.input = wants
    return Teaching(teacher.to(memory_format=torch.channels_last), {"sha256": str(seed) * 64})


def wanted_by(train_set, folder, recipe, teacher=None):
    student = partial(build_model, "student", CLASSES)
    return Wanted(train_set, recipe, CPU, Beside(), folder, teacher, student)
