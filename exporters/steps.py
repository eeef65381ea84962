"""The one step that makes an export of a format; what happens around every step is in ``proven_export``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.kinds import Kind

if TYPE_CHECKING:
    from exporters.export_job import ExportJob
    from kdbench.backends.base import Backend


@dataclass(frozen=True)
class Written:
    """What a step says of the file that it wrote.

    Attributes:
        fields: for the sidecar, beside those that every export has.
        candidate: the file as a loaded engine, to be held against PyTorch and closed; None where the step has the
            proof already, as ``fields["parity"]``.
        graph: the candidate as an ONNX file whose mask is an ArgMax, so that its logits can be looked at too.
    """

    fields: dict[str, Any]
    candidate: Backend | None = None
    graph: Path | None = None


@dataclass(frozen=True)
class Step:
    """How a format of ``kdbench.formats`` is written.

    Attributes:
        name: the format's.
        write: writes the job's model in a precision to the path, and companions beside it, all of which are put in
            place later. Raises BackendUnavailable where this machine cannot, RunFailed where it went wrong.
        made_from: precision → the format whose export of that precision must be made first.
    """

    name: str
    write: Callable[[ExportJob, str, Path], Written]
    made_from: Mapping[str, str] = field(default_factory=dict)


STEPS: Kind[Step] = Kind("format", "--format", ("exporters.to_onnx", "exporters.to_tensorrt", "exporters.to_openvino"))
