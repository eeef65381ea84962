"""What ``kdbench train`` and ``export`` write beside their files, checked before anybody relies on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, ValidationError

from kdbench.errors import BadInput
from kdbench.runs.files import read_json
from kdbench.runs.recorded import AnEnvironment, ARecipe, ParityProof, Recorded, problem_of

Side = Annotated[int, Field(gt=0, le=2**16)]
"""Height or width in pixels."""
Channel = Annotated[int, Field(ge=0, le=255)]
Color = tuple[Channel, Channel, Channel]


class Described(Recorded):
    """What opening a model and its dataset again reads."""

    method: str | None = None
    classes: list[str] = Field(min_length=2)
    size: tuple[Side, Side]
    palette: list[Color] = Field(default_factory=list)
    dataset: str | None = None
    dataset_file: str | None = None
    data_root: str | None = None
    input: dict[str, Any] | None = None


class _CheckpointSidecar(Described):
    arch: str
    network: dict[str, Any] | None = None
    sha256: str | None = None


class _Teacher(Recorded):
    sha256: str
    arch: str | None = None
    miou: float | None = None


class _TrainingSidecar(_CheckpointSidecar):
    """The fields that comparing, resuming and repeating read; others may be there."""

    method: str
    params: int
    recipe: ARecipe
    seed: int
    epoch: int
    epochs: int
    steps: int
    miou: float
    train_images: int
    train_seconds: float = Field(ge=0)
    sha256: str
    environment: AnEnvironment
    variant: str | None = None
    hold_out: str | None = None
    teacher: _Teacher | None = None
    time_matched: dict[str, Any] | None = None
    labelled_images: int | None = None
    unlabelled_images: int | None = None
    unlabelled: str = ""
    unlabelled_train_images: int = 0
    sbd: StrictBool = False
    deterministic: StrictBool = False
    weights: str | None = None


class _Companion(Recorded):
    sha256: str


class _ExportSidecar(Recorded):
    """The fields of an export's sidecar that engines, tables and the report read; others may be there."""

    format: str
    precision: str
    method: str
    output: str
    size: tuple[Side, Side]
    sha256: str
    checkpoint_sha256: str
    classes: list[str] = Field(default_factory=list)
    palette: list[Color] = Field(default_factory=list)
    input: dict[str, Any] | None = None
    environment: AnEnvironment | None = None
    bytes: int | None = None
    parity: ParityProof | None = None
    weights: _Companion | str | None = None
    layer_errors: list[Any] | dict[str, Any] | None = None
    keep_float: list[str] | None = None
    nodes: int | None = None


class OnnxEntry(Recorded):
    """What is read of what travels inside an ONNX file."""

    classes: list[str] | None = Field(None, min_length=1, max_length=256)
    palette: list[Color] | None = None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    normalisation: dict[str, Any] | None = None


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
        raise BadInput(f"{otherwise} ({problem_of(error)}): make it again with `{made_by}`") from error
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


def read_checkpoint_sidecar(path: Path, made_by: str) -> dict[str, Any]:
    """What of a checkpoint's sidecar loading it needs; as ``read_training_sidecar``, of files of before too."""
    return validated(_CheckpointSidecar, read_json(path, made_by), f"'{path}' is no sidecar of a training", made_by)


def read_description(path: Path, made_by: str) -> dict[str, Any]:
    """What opening a dataset again reads of a training's or an import's sidecar.

    Raises:
        Missing: there is none. BadInput: it is broken.
    """
    document = read_json(path, made_by)
    return validated(Described, document, f"'{path}' does not say what it was trained on", made_by)
