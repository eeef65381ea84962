"""An arm: one model in training, with its losses, optimizer, schedule, logs and the state that a resume needs."""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.data import SegmentationDataset
from kdbench.data.remembered import names_and_meaning
from kdbench.data.unlabelled import ImagesWithoutLabels
from kdbench.errors import BadInput
from kdbench.runs.files import write_text
from kdbench.runs.folder import RunFolder
from trainers.methods import Objective
from trainers.processes import share_batchnorm, wrap
from trainers.recipe import Recipe
from trainers.state_file import read_state, write_state

NAMES = "train_images_sha256"
"""A sidecar's field: which images it learns from, and what their masks' values mean."""
WORDS = {NAMES: "images, or meanings of mask values"}
"""For a person, in place of a hash."""


class AnotherTraining(BadInput):
    """A resume state is there, of other settings or other data."""


@dataclass
class Arm:
    """One model in training.

    Attributes:
        objective: on its device; with several processes it becomes the one whose gradients and statistics they share.
        checkpoint: where the trained model goes; history, TensorBoard and the resume state lie beside it.
        about: fields of its sidecar that the loop does not know.
        rows: the history, a row per finished epoch; kept in the resume state too, so that both always agree.
        saved_at: of ``time.monotonic()``, when the resume state was written last.
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
    rows: list[dict[str, Any]] = field(default_factory=list)
    saved_at: float = -math.inf

    def __post_init__(self) -> None:
        share_batchnorm(self.objective)
        self.losses_of = wrap(self.objective)
        self.optimizer = make_optimizer(self.objective, self.recipe)
        total = self.recipe.epochs * self.steps_per_epoch
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda s: lr_factor(s, total, self.recipe))

    @property
    def folder(self) -> RunFolder:
        return RunFolder.of(self.checkpoint)

    @property
    def state_file(self) -> Path:
        return self.folder.state

    def save_state(self) -> None:
        self.saved_at = time.monotonic()
        write_state(
            self.state_file,
            {
                "recipe": self.recipe.model_dump_json(),
                "data": training_data(self.about),
                "epochs_done": self.epochs_done,
                "seconds": self.seconds,
                "rows": self.rows,
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
            },
        )

    def load_state(self) -> None:
        """Go on from ``state.pt`` when there is one.

        Raises:
            BadInput: the file is broken, or was written under another recipe, on other data or with another teacher.
        """
        if not self.state_file.exists():
            return
        try:
            state = read_state(self.state_file, "train without --resume")
            self._expect("recipe", self.recipe.changes_since(json.loads(state["recipe"])))
            if state["epochs_done"] == 0:  # written at the start, before anything was learnt
                return
            before, now = state["data"], training_data(self.about)
            changed = [WORDS.get(key, f"{key} {before.get(key)} → {now.get(key)}") for key in differing(before, now)]
            self._expect("dataset or teacher", changed)
            self.objective.load_state_dict(state["objective"])
            rates = [group["lr"] for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(state["optimizer"])
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate.fill_(float(group["lr"])) if isinstance(rate, Tensor) else float(group["lr"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.epochs_done, self.seconds, self.rows = state["epochs_done"], state["seconds"], state["rows"]
        except BadInput:
            raise
        except Exception as error:  # torch.load raises whatever the unpickler meets in a broken file
            text = " ".join(str(error).split())[:200]
            if "weights_only" in text:  # torch's advice is to switch off what keeps a file from running code
                text = "it holds other things than tensors and numbers"
            raise BadInput(f"--resume: '{self.state_file}' is corrupt ({text}): train without --resume") from error

    def _expect(self, what: str, changed: list[str]) -> None:
        if changed:
            raise AnotherTraining(
                f"--resume: {self.method} was started with another {what} ({', '.join(changed)}): "
                "give the same flags, or train without --resume"
            )

    def open_logs(self) -> None:
        """Open history and TensorBoard, dropping what lies beyond the epoch that training starts from."""
        from torch.utils.tensorboard import SummaryWriter

        self.write_history()
        logs = self.folder.tensorboard
        if not self.epochs_done:
            shutil.rmtree(logs, ignore_errors=True)
        self.tensorboard = SummaryWriter(str(logs), purge_step=self.epochs_done + 1)

    def write_history(self) -> None:
        write_text(self.folder.history, "".join(json.dumps(row) + "\n" for row in self.rows))


def data_fields(
    train: SegmentationDataset,
    validation: SegmentationDataset,
    unlabelled: ImagesWithoutLabels | None,
    images: int | None,
) -> dict[str, Any]:
    """What a sidecar says of the data.

    Args:
        images: the first of ``train`` that are trained on; None = all.
    """
    names = names_and_meaning(train)
    return {
        "classes": list(train.classes),
        "palette": [list(color) for color in train.palette],
        "train_images": min(len(train), images or len(train)),
        **({NAMES: names} if names is not None else {}),
        **({"unlabelled_train_images": len(unlabelled)} if unlabelled is not None else {}),
        "val_images": len(validation),
    }


def training_data(about: dict[str, Any]) -> dict[str, Any]:
    """What a training learns from, by its sidecar's fields; a resume from anything else would mix two trainings."""
    data = {key: about[key] for key in ("classes", "train_images")}
    for part in ("teacher", "teacher_weights", "student_weights"):
        if part in about:
            data[part] = about[part]["sha256"]
    data |= {key: about[key] for key in (NAMES, "labelled", "unlabelled_train_images") if key in about}
    if code := about.get("network", {}).get("code"):
        data["code"] = code["sha256"]
    return data


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Fields of ``training_data`` that a record has otherwise; one from before ``NAMES`` says nothing of them."""
    changed = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    # Of data whose names nobody knows nothing is said, and another number of images says it all.
    unknown = NAMES not in before or NAMES not in now or "train_images" in changed
    return [key for key in changed if key != NAMES or not unknown]


def mark_started(state_file: Path, recipe: Recipe) -> None:
    """Write the resume state of a training that has not finished an epoch."""
    state_file.parent.mkdir(parents=True, exist_ok=True)
    write_state(state_file, {"recipe": recipe.model_dump_json(), "epochs_done": 0})


def make_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over every parameter, adapters included; no weight decay on BatchNorm and biases.

    On a GPU the learning rate is a tensor there and Adam counts its steps there, so that a step can be recorded as a
    CUDA graph: a number would be recorded as it was.
    """
    parameters = list(module.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    device = parameters[0].device
    on_gpu = device.type == "cuda"
    for group in groups:
        group["lr"] = torch.full((), recipe.lr, device=device) if on_gpu else recipe.lr
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9)
    if on_gpu:  # where a step cannot be recorded, it is launched, for which torch would rather have another setting
        warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
    adam = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return adam(groups, lr=recipe.lr, capturable=on_gpu, fused=True if on_gpu else None)


def lr_factor(step: int, total: int, recipe: Recipe) -> float:
    """Learning rate at ``step`` of ``total``, as a factor of the recipe's: linear warm-up, then the schedule."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = min(1.0, (step - recipe.warmup_steps) / max(1, total - recipe.warmup_steps))
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return (1 - done) ** 0.9 if recipe.schedule == "poly" else 1.0
