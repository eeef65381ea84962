"""The artifact that is shipped, checked: it is the file that was measured, whole, and says what its classes mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.backends import BACKENDS
from kdbench.backends.exported import read_export
from kdbench.comparison.choice import Candidate
from kdbench.comparison.results import Comparison
from kdbench.data.base import Color
from kdbench.data.normalisation import Input
from kdbench.data.preprocessing import Size
from kdbench.errors import BadInput, Missing
from kdbench.formats import companions
from kdbench.package.tensors import Tensor, tensors_of
from kdbench.runs.files import sha256
from kdbench.runs.tree import RunTree


@dataclass(frozen=True)
class Shipped:
    """A measured export.

    Attributes:
        path: its file.
        sidecar: what ``kdbench export`` wrote beside it.
        image, result: its input and its output.
        reason: why it was chosen.
    """

    comparison: Comparison
    candidate: Candidate
    path: Path
    sidecar: dict[str, Any]
    image: Tensor
    result: Tensor
    reason: str

    @property
    def name(self) -> str:
        """As a folder and a server's model may be called: "camvid-combined-onnx-int8"."""
        row = self.candidate.row
        parts = (self.comparison.dataset["name"], *row.run.split("/"), row.backend, row.precision)
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts))

    @property
    def format(self) -> str:
        return self.sidecar["format"]

    @property
    def files(self) -> list[Path]:
        """The artifact, then its companions."""
        return [self.path, *companions(self.path)]

    @property
    def size(self) -> Size:
        height, width = self.sidecar["size"]
        return height, width

    @property
    def classes(self) -> list[str]:
        return self.sidecar["classes"]

    @property
    def palette(self) -> list[Color]:
        return [(red, green, blue) for red, green, blue in self.sidecar["palette"]]

    @property
    def input(self) -> Input:
        """How its float input is normalised; a mask model does it inside."""
        return Input.recorded(self.sidecar)

    @property
    def on_gpu(self) -> bool:
        """Whether it was measured on one."""
        return self.format == "trt" or (self.candidate.row.engine or {}).get("device") == "cuda"


def open_shipped(tree: RunTree, comparison: Comparison, candidate: Candidate, reason: str) -> Shipped:
    """Find what a row measured.

    Raises:
        Missing: its files are not on this machine.
        BadInput: they are not those that were measured, do not belong together, or are no export.
    """
    row, artifact = candidate.row, candidate.artifact
    export_format = BACKENDS[row.backend].loads
    if export_format is None:
        raise BadInput(
            f"'{artifact.path}' is a checkpoint, which only kdbench runs; expected an export: leave --backend "
            f"{row.backend} out"
        )
    path = tree.root / artifact.path
    if not path.is_file():
        raise Missing(
            f"'{path}', which the comparison chose, is not on this machine: name its tree with --runs, or make it with "
            f"`kdbench export --method {row.method} --dataset {tree.dataset}` and compare again"
        )
    sidecar = read_export(path, export_format, None)
    for file, expected in row.measured_files(tree.root).items():
        if not file.is_file() or sha256(file) != expected:
            raise BadInput(
                f"'{file}' is not the file that was measured (sha256 differs), expected the one of the comparison: run "
                f"`kdbench compare --dataset {tree.dataset}` again"
            )
    lacking = [key for key in ("classes", "palette") if key not in sidecar]
    if lacking:
        raise BadInput(
            f"the sidecar of '{path}' lacks {' and '.join(lacking)}, expected what class ids mean: export it again"
        )
    image, result = tensors_of(tree, path, sidecar)
    return Shipped(comparison, candidate, path, sidecar, image, result, reason)
