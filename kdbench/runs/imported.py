"""What ``kdbench import`` writes of a file, checked before anybody relies on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from kdbench.errors import BadInput
from kdbench.runs.files import read_json


class _Source(BaseModel):
    file: str
    sha256: str
    bytes: int


class _ImportSidecar(BaseModel):
    """The fields that others read; more may be there."""

    method: str
    source: _Source
    classes: list[str] = Field(min_length=2)
    palette: list[tuple[int, int, int]]
    size: tuple[int, int]
    params: int
    sha256: str


def read_imported(path: Path) -> dict[str, Any]:
    """The sidecar of an imported file.

    Raises:
        Missing: there is none. BadInput: it is broken.
    """
    made_by = f"kdbench import FILE.onnx --name {path.parent.name}"
    document = read_json(path, made_by)
    try:
        _ImportSidecar.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(
            f"'{path}' is no sidecar of an import ({'.'.join(map(str, first['loc']))}: {first['msg']}): "
            f"make it again with `{made_by} --overwrite`"
        ) from error
    return document
