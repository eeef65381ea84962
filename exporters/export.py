"""Every export of one method that was asked for, each attempt with what came of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporters.export_job import ExportJob
from exporters.proven_export import export_as
from exporters.steps import STEPS
from kdbench.backends.exported import read_export
from kdbench.errors import BackendUnavailable, BadInput, KdbenchError, NoSuchPrecision, one_line
from kdbench.runs.files import read_json
from kdbench.runs.tree import sidecar_path


@dataclass(frozen=True)
class Attempt:
    """One export: made; unsupported, as the format has no such precision; skipped because this machine cannot, or what
    it is made from was not made; or failed because the result was not the model.

    Attributes:
        reason: why it was not made.
        path: the file that was made, with ``sidecar``.
        refused: the error where what was asked for makes no sense.
    """

    method: str
    format: str
    precision: str
    status: Literal["made", "unsupported", "skipped", "failed"]
    reason: str | None = None
    path: Path | None = None
    sidecar: dict[str, Any] | None = None
    refused: BadInput | None = None


def export_all(
    job: ExportJob,
    formats: Sequence[str],
    precisions: Sequence[str],
    on_attempt: Callable[[Attempt], None] = lambda attempt: None,
) -> None:
    """Make every format in every precision; ``on_attempt`` is called after each.

    What a format is made from, as a TensorRT engine from the ONNX export of its precision, is made first where it is
    among ``formats`` too, missing, or older than the checkpoint.

    A failure of one takes no other with it.
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
    """Make one export; whatever goes wrong is its reason. The traceback of a bug goes to stderr.

    Args:
        source: the attempt at what it is made from, where there was one.
    """
    status: Literal["unsupported", "skipped", "failed"]
    if source is not None and source.status != "made":
        reason = f"it is made from the {source.format} export, which was not made ({source.status})"
        return Attempt(job.method, name, precision, "skipped", reason)
    try:
        path = job.standing(name, precision) or export_as(job, name, precision)
    except Exception as error:  # of exporters, whose errors for a foreign network have no common class
        if isinstance(error, NoSuchPrecision):
            status = "unsupported"
        else:
            status = "skipped" if isinstance(error, BackendUnavailable) else "failed"
        refused = error if isinstance(error, BadInput) else None
        return Attempt(job.method, name, precision, status, reason_of(error), refused=refused)
    return Attempt(job.method, name, precision, "made", None, path, read_json(sidecar_path(path), "kdbench export"))


def failed_attempts(
    method: str, formats: Sequence[str], precisions: Sequence[str], error: Exception
) -> Iterator[Attempt]:
    """The rows of a method whose checkpoint cannot be exported at all."""
    reason, refused = reason_of(error), error if isinstance(error, BadInput) else None
    for precision in precisions:
        for name in formats:
            yield Attempt(method, name, precision, "failed", reason, refused=refused)


def reason_of(error: Exception) -> str:
    """An error as a row's reason: one of ours is one line; a bug's first line, with its traceback on stderr."""
    if isinstance(error, KdbenchError):
        return " ".join(str(error).split())
    traceback.print_exception(error)
    first = next(iter(str(error).strip().splitlines()), "")
    return one_line(f"{type(error).__name__}: {first}", 300)


def is_current(job: ExportJob, name: str, precision: str) -> bool:
    """Whether an export is there, whole, and fits the job's checkpoint, size and batch."""
    try:
        sidecar = read_export(job.path(name, precision), name, job.size)
    except KdbenchError:
        return False
    return all(sidecar.get(key) == job.about()[key] for key in ("checkpoint_sha256", "batch"))
