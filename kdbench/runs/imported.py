"""What ``kdbench import`` writes of a file, checked before anybody relies on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from kdbench.runs.files import read_json
from kdbench.runs.sidecar import validated


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
    return validated(_ImportSidecar, document, f"'{path}' is no sidecar of an import", f"{made_by} --overwrite")
