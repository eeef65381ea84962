"""What ``kdbench import`` writes of a file, checked before anybody relies on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbench.runs.files import read_json
from kdbench.runs.recorded import Recorded
from kdbench.runs.sidecar import Color, Described, validated


class _Source(Recorded):
    file: str
    sha256: str
    bytes: int


class _ImportSidecar(Described):
    """The fields that others read; more may be there."""

    method: str
    source: _Source
    palette: list[Color]
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
