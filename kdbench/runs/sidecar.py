"""What ``kdbench train`` writes beside a checkpoint, checked before anybody relies on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdbench.errors import BadInput
from kdbench.runs.files import read_json


class _Git(BaseModel):
    revision: str | None


class _Environment(BaseModel):
    git: _Git
    command: str


class _TrainingSidecar(BaseModel):
    """The fields that comparing and resuming read; others may be there."""

    model_config = ConfigDict(allow_inf_nan=False)

    method: str
    arch: str
    classes: list[str] = Field(min_length=2)
    size: tuple[int, int]
    params: int
    recipe: dict[str, Any]
    seed: int
    epoch: int
    epochs: int
    steps: int
    miou: float
    train_images: int
    train_seconds: float
    sha256: str
    environment: _Environment


def read_training_sidecar(path: Path, made_by: str) -> dict[str, Any]:
    """The sidecar of a checkpoint that ``kdbench train`` wrote.

    Args:
        path: the .json file.
        made_by: the command that makes it, for the error.

    Raises:
        Missing: there is none. BadInput: it is broken, or lacks what a training's sidecar has.
    """
    document = read_json(path, made_by)
    try:
        _TrainingSidecar.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(
            f"'{path}' is no sidecar of a training ({'.'.join(map(str, first['loc']))}: {first['msg']}): "
            f"make it again with `{made_by}`"
        ) from error
    return document
