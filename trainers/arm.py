"""An arm: one model in training, with its losses, optimizer, schedule, logs and the state that a resume needs."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.artifacts import atomic_path, write_text
from kdbench.errors import BadInput
from trainers.methods import Objective
from trainers.recipe import Recipe


@dataclass
class Arm:
    """One model in training.

    Attributes:
        checkpoint: where the trained model goes; history, TensorBoard and the resume state lie beside it.
        about: fields of its sidecar that the loop does not know.
    """

    method: str
    objective: Objective
    recipe: Recipe
    checkpoint: Path
    about: dict[str, Any]
    steps_per_epoch: int
    epochs_done: int = 0
    seconds: float = 0.0
    running: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.objective, self.recipe)
        total = self.recipe.epochs * self.steps_per_epoch
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda s: lr_factor(s, total, self.recipe))

    @property
    def folder(self) -> Path:
        return self.checkpoint.parent

    @property
    def state_file(self) -> Path:
        return self.folder / "state.pt"

    def save_state(self) -> None:
        state = {
            "recipe": self.recipe.model_dump_json(),
            "epochs_done": self.epochs_done,
            "seconds": self.seconds,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        with atomic_path(self.state_file) as temporary:
            torch.save(state, temporary)

    def load_state(self) -> None:
        """Go on from ``state.pt`` when there is one.

        Raises:
            BadInput: the file is broken, or was written under another recipe.
        """
        if not self.state_file.exists():
            return
        try:
            state = torch.load(self.state_file, weights_only=True)
        except Exception as error:  # torch.load raises whatever the unpickler meets in a broken file
            raise BadInput(f"--resume: '{self.state_file}' is corrupt ({error}): train without --resume") from error
        changed = self.recipe.changes_since(json.loads(state["recipe"]))
        if changed:
            raise BadInput(
                f"--resume: {self.method} was started with another recipe ({', '.join(changed)}): "
                "give the same flags, or train without --resume"
            )
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.epochs_done, self.seconds = state["epochs_done"], state["seconds"]

    def open_logs(self) -> None:
        """Open history and TensorBoard, dropping what lies beyond the epoch that training starts from."""
        from torch.utils.tensorboard import SummaryWriter

        history = self.folder / "history.jsonl"
        lines = history.read_text(encoding="utf-8").splitlines() if history.exists() and self.epochs_done else []
        write_text(history, "".join(line + "\n" for line in lines[: self.epochs_done]))
        logs = self.folder / "tensorboard"
        if not self.epochs_done:
            shutil.rmtree(logs, ignore_errors=True)
        self.tensorboard = SummaryWriter(str(logs), purge_step=self.epochs_done + 1)


def make_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over every parameter, adapters included; no weight decay on BatchNorm and biases."""
    parameters = list(module.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9)
    return (torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW)(groups, lr=recipe.lr)


def lr_factor(step: int, total: int, recipe: Recipe) -> float:
    """Learning rate at ``step`` of ``total``, as a factor of the recipe's: linear warm-up, then the schedule."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = min(1.0, (step - recipe.warmup_steps) / max(1, total - recipe.warmup_steps))
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return (1 - done) ** 0.9 if recipe.schedule == "poly" else 1.0
