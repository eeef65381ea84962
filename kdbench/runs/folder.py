"""One training's folder: the names of what lies in it, and whether the training is finished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.runs.files import read_json, sha256

IMPORTED = "imported.json"


@dataclass(frozen=True)
class RunFolder:
    """``<method>/``, or ``<method>/seed-<n>/`` of another seed than the recipe's.

    Attributes:
        name: of the model, which its files have: "student" or "teacher".
    """

    path: Path
    name: str = "student"

    @staticmethod
    def of(checkpoint: Path) -> RunFolder:
        """The folder in which a checkpoint lies."""
        return RunFolder(checkpoint.parent, checkpoint.stem)

    @property
    def checkpoint(self) -> Path:
        return self.path / f"{self.name}.safetensors"

    @property
    def sidecar(self) -> Path:
        """What the checkpoint's training says of itself."""
        return sidecar_path(self.checkpoint)

    @property
    def history(self) -> Path:
        """Losses and validation mIoU, a line per epoch."""
        return self.path / "history.jsonl"

    @property
    def state(self) -> Path:
        """What a resume goes on from: it is there from a training's start until its end."""
        return self.path / "state.pt"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def lock(self) -> Path:
        """Held by the process that trains here; the file alone means nothing."""
        return self.path / ".lock"

    @property
    def written(self) -> tuple[Path, ...]:
        """Files that a training replaces whole, again and again."""
        return self.checkpoint, self.sidecar, self.history, self.state

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    @property
    def views(self) -> Path:
        """Augmented views that were made once, with what the teacher here says of them."""
        return self.path / "views"

    @property
    def imported(self) -> Path:
        """What ``kdbench import`` says of the file that lies here in place of a checkpoint."""
        return self.path / IMPORTED

    @property
    def description(self) -> Path:
        """What the model here says of itself: an imported file's, else the checkpoint's training."""
        return self.imported if self.imported.is_file() else self.sidecar

    def origin_sha256(self) -> str | None:
        """The hash of what exports are made from; None where that does not lie here.

        A checkpoint itself is hashed: its sidecar may be missing, or not fit it, on the machine that only runs exports.
        """
        if self.imported.is_file():
            found = read_json(self.imported, "kdbench import").get("sha256")
            return None if found is None else str(found)
        return sha256(self.checkpoint) if self.checkpoint.exists() else None

    def finished(self, made_by: str) -> dict[str, Any] | None:
        """The sidecar of the training that was finished here; None where there is none, or it is not at its end.

        Args:
            made_by: the command that makes it, for the error.

        Raises:
            BadInput: the sidecar is broken.
        """
        from kdbench.runs.sidecar import read_training_sidecar

        if not (self.checkpoint.exists() and self.sidecar.exists()) or self.state.exists():
            return None
        sidecar = read_training_sidecar(self.sidecar, made_by)
        return sidecar if at_its_end(sidecar) else None

    def is_whole(self, sidecar: dict[str, Any]) -> bool:
        """Whether the checkpoint is the very file that ``sidecar`` describes."""
        return sha256(self.checkpoint) == sidecar["sha256"]


def at_its_end(sidecar: dict[str, Any]) -> bool:
    """Whether the checkpoint that ``sidecar`` describes is of its training's last epoch."""
    return bool(sidecar["epoch"] == sidecar["epochs"])


def sidecar_path(artifact: Path) -> Path:
    return artifact.with_suffix(".json")
