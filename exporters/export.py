"""Every export of one method that was asked for, each attempt with what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporters.export_job import ExportJob
from exporters.proven_export import export_as
from exporters.steps import STEPS
from kdbench.backends.exported import read_export
from kdbench.errors import BackendUnavailable, KdbenchError, NoSuchPrecision, RunFailed
from kdbench.runs.files import read_json
from kdbench.runs.tree import sidecar_path


@dataclass(frozen=True)
class Attempt:
    """One export: made; unsupported, as the format has no such precision; skipped because this machine cannot, or what
    it is made from was not made; or failed because the result was not the model.

    Attributes:
        reason: why it was not made.
        path: the file that was made, with ``sidecar``.
    """

    method: str
    format: str
    precision: str
    status: Literal["made", "unsupported", "skipped", "failed"]
    reason: str | None = None
    path: Path | None = None
    sidecar: dict[str, Any] | None = None


def export_all(
    job: ExportJob,
    formats: Sequence[str],
    precisions: Sequence[str],
    on_attempt: Callable[[Attempt], None] = lambda attempt: None,
) -> None:
    """Make every format in every precision; ``on_attempt`` is called after each.

    What a format is made from, as a TensorRT engine from the ONNX export of its precision, is made first where it is
    among ``formats`` too, missing, or older than the checkpoint.

    Raises:
        BadInput: what was asked for makes no sense, for every format alike.
    """
    for precision in precisions:
        done: dict[str, Attempt] = {}
        for name in formats:
            source = STEPS[name].made_from.get(precision)
            for wanted in (source, name):
                if wanted is None or wanted in done:
                    continue
                if wanted == source and wanted not in formats and is_current(job, wanted, precision):
                    continue
                done[wanted] = attempt(job, wanted, precision, done.get(source or ""))
                on_attempt(done[wanted])


def attempt(job: ExportJob, name: str, precision: str, source: Attempt | None) -> Attempt:
    """Make one export, and turn what a table can show into a row of it.

    Args:
        source: the attempt at what it is made from, where there was one.
    """
    status: Literal["unsupported", "skipped", "failed"]
    if source is not None and source.status != "made":
        reason = f"it is made from the {source.format} export, which was not made ({source.status})"
        return Attempt(job.method, name, precision, "skipped", reason)
    try:
        path = export_as(job, name, precision)
    except (BackendUnavailable, RunFailed) as error:
        if isinstance(error, NoSuchPrecision):
            status = "unsupported"
        else:
            status = "skipped" if isinstance(error, BackendUnavailable) else "failed"
        return Attempt(job.method, name, precision, status, " ".join(str(error).split()))
    return Attempt(job.method, name, precision, "made", None, path, read_json(sidecar_path(path), "kdbench export"))


def is_current(job: ExportJob, name: str, precision: str) -> bool:
    """Whether an export is there, whole, and fits the job's checkpoint, size and batch."""
    try:
        sidecar = read_export(job.path(name, precision), name, job.size)
    except KdbenchError:
        return False
    return all(sidecar.get(key) == job.about()[key] for key in ("checkpoint_sha256", "batch"))
