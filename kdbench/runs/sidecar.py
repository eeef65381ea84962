"""What ``kdbench train`` and ``export`` write beside their files, checked before anybody relies on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdbench.errors import BadInput, one_line
from kdbench.runs.files import read_json

Side = Annotated[int, Field(gt=0, le=2**16)]
"""Height or width in pixels."""


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
    size: tuple[Side, Side]
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
    palette: list[tuple[int, int, int]] = Field(default_factory=list)
    dataset: str | None = None
    data_root: str | None = None
    variant: str | None = None
    teacher: dict[str, Any] | None = None
    network: dict[str, Any] | None = None
    input: dict[str, Any] | None = None
    time_matched: dict[str, Any] | None = None
    labelled_images: int | None = None
    unlabelled_images: int | None = None


class _Companion(BaseModel):
    sha256: str


class _ExportSidecar(BaseModel):
    """The fields of an export's sidecar that engines, tables and the report read; others may be there."""

    model_config = ConfigDict(allow_inf_nan=False)

    format: str
    precision: str
    method: str
    output: str
    size: tuple[Side, Side]
    sha256: str
    checkpoint_sha256: str
    classes: list[str] = Field(default_factory=list)
    palette: list[tuple[int, int, int]] = Field(default_factory=list)
    parity: dict[str, Any] | None = None
    weights: _Companion | str | None = None
    layer_errors: list[Any] | dict[str, Any] | None = None
    keep_float: list[str] | None = None
    nodes: int | None = None


def read_export_sidecar(path: Path, made_by: str) -> dict[str, Any]:
    """The sidecar of a file that ``kdbench export`` wrote.

    Args:
        path: the .json file.
        made_by: the command that makes it, for the error.

    Raises:
        Missing: there is none. BadInput: it is broken, or lacks what an export's sidecar has.
    """
    return validated(_ExportSidecar, read_json(path, made_by), f"'{path}' is no sidecar of an export", made_by)


def validated(schema: type[BaseModel], document: dict[str, Any], otherwise: str, made_by: str) -> dict[str, Any]:
    """A document that fits its schema.

    Args:
        otherwise: how the error begins.
        made_by: the command that makes it again.

    Raises:
        BadInput: it does not; names the first field that is wrong, what was received, and what was expected.
    """
    try:
        schema.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        got = "" if first["type"] == "missing" else f"got {one_line(repr(first['input']), 80)}, "
        raise BadInput(f"{otherwise} ({where}: {got}{first['msg']}): make it again with `{made_by}`") from error
    return document


def read_training_sidecar(path: Path, made_by: str) -> dict[str, Any]:
    """The sidecar of a checkpoint that ``kdbench train`` wrote.

    Args:
        path: the .json file.
        made_by: the command that makes it, for the error.

    Raises:
        Missing: there is none. BadInput: it is broken, or lacks what a training's sidecar has.
    """
    return validated(_TrainingSidecar, read_json(path, made_by), f"'{path}' is no sidecar of a training", made_by)
