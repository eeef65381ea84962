"""What a backend says of itself, so that nobody else has to know it by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kdbench.formats import FORMATS
from kdbench.kinds import Kind
from kdbench.machine.checks import Check, Gpu
from kdbench.runs.tree import RunTree

if TYPE_CHECKING:
    from kdbench.backends.base import Backend
    from kdbench.data.preprocessing import Size


class Load(Protocol):
    """How a declared backend opens an artifact."""

    def __call__(self, artifact: Path, *, output: str, size: Size | None, device: str, threads: int) -> Backend:
        """Open an artifact.

        Args:
            artifact: a checkpoint, an .onnx file or an engine, with its sidecar beside it.
            output: "logits" or "mask"; an export has one, a checkpoint can give both.
            size: (H, W) for a checkpoint; None = what the sidecar says.
            device: "cpu" or "cuda".
            threads: CPU threads inside the engine.

        Raises:
            Missing, BadInput: no such artifact, or a broken one.
            BackendUnavailable: this machine cannot run it; the message says why.
        """


@dataclass(frozen=True)
class DeclaredBackend:
    """A backend by its name, before anything is loaded.

    Attributes:
        name: in ``--backend``.
        load: imports the engine and opens an artifact.
        probe: rows of ``kdbench doctor``: whether it runs here, and what would make it run; may import the engine.
        loads: the name of the format whose exports it opens; None: the checkpoint itself.
        precisions: that it has rows for; None: those of its format, float32 for a checkpoint.
        unsupported: precision → why it has no rows for it, where the format has exports.
        usual: whether ``--backend all`` takes it: what costs minutes is better measured when it is named.
        color: of its points in the report.
    """

    name: str
    load: Load
    probe: Callable[[Gpu | None], Sequence[Check]]
    loads: str | None = None
    precisions: tuple[str, ...] | None = None
    unsupported: Mapping[str, str] = field(default_factory=dict)
    usual: bool = False
    color: str = "#000000"

    def rows(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The precisions that a comparison has rows for: a checkpoint is what it is, whatever is wanted."""
        return tuple(wanted) if self.loads is not None else self.precisions or ("fp32",)

    def why_not(self, precision: str) -> str | None:
        """Why it has no such precision; None where it has."""
        if self.loads is None:
            return None
        if self.precisions is None or precision in self.precisions:
            return FORMATS[self.loads].why_not(precision)
        return self.unsupported.get(precision, f"{self.name} computes in {' or '.join(self.precisions)}")

    def artifact(self, tree: RunTree, method: str, precision: str, output: str) -> Path:
        """The file that it loads for a method."""
        if self.loads is None:
            return tree.checkpoint(method)
        return tree.export(method, self.loads, precision, output)


BACKENDS: Kind[DeclaredBackend] = Kind(
    "backend",
    "--backend",
    (
        "kdbench.backends.torch_variants",
        "kdbench.backends.onnx_runtime",
        "kdbench.backends.openvino_runtime",
        "kdbench.backends.tensorrt_engine",
    ),
)


def usual_backends() -> tuple[str, ...]:
    """What "all" stands for."""
    return tuple(backend.name for backend in BACKENDS if backend.usual)
