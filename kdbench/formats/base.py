"""What a format says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdbench.kinds import Kind

PRECISIONS = ("fp32", "fp16", "int8")
"""Every precision that an export or a row may have, from the finest to the coarsest."""


@dataclass(frozen=True)
class Need:
    """A package that writing a format needs, for ``kdbench doctor``.

    Attributes:
        engine: its name for people.
        package: its name for ``import`` and ``pip``.
        precisions: of exports that need it.
    """

    engine: str
    package: str
    precisions: tuple[str, ...] = PRECISIONS


@dataclass(frozen=True)
class Format:
    """A format of exports.

    Attributes:
        name: in ``--format`` and in the folder ``<name>-<precision>``.
        title: for people.
        suffix: of its file, without the dot.
        companions: files that lie beside that file and belong to it: the sidecar's field → suffix.
        precisions: that it can be written in.
        unsupported: precision → why not.
        needs: packages.
    """

    name: str
    title: str
    suffix: str
    companions: Mapping[str, str] = field(default_factory=dict)
    precisions: tuple[str, ...] = PRECISIONS
    unsupported: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()

    def companion(self, path: Path, key: str) -> Path:
        """Where a companion of the file ``path`` lies."""
        return path.with_suffix(f".{self.companions[key]}")

    def why_not(self, precision: str) -> str | None:
        """Why there are no exports in a precision; None where there are."""
        if precision in self.precisions:
            return None
        return self.unsupported.get(precision, f"{self.title} exports are {' or '.join(self.precisions)}")


FORMATS: Kind[Format] = Kind(
    "format",
    "--format",
    ("kdbench.formats.onnx_graph", "kdbench.formats.tensorrt_plan", "kdbench.formats.openvino_ir"),
)


def format_of(path: Path) -> Format | None:
    """The first format whose files end as ``path`` does."""
    return next((known for known in FORMATS if path.suffix == f".{known.suffix}"), None)


def companions(path: Path) -> list[Path]:
    """The companions of an export that exist; [] of a file of no format, such as a checkpoint."""
    known = format_of(path)
    found = [] if known is None else [known.companion(path, key) for key in known.companions]
    return [file for file in found if file.is_file()]
