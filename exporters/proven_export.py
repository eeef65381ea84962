"""What happens around every export: a temporary file, the format's step, the proof against PyTorch, the sidecar.

    with ExportJob(tree, "feature", "mask", samples=samples) as job:
        path = export_as(job, "onnx", "fp32")

The old file stays until the new one is proven to be the model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from exporters.export_job import ExportJob
from exporters.mask_logits import logit_difference
from exporters.steps import STEPS
from kdbench.backends.base import Backend
from kdbench.comparison.parity import Parity, compare_outputs, drift
from kdbench.errors import NoSuchPrecision, RunFailed
from kdbench.formats import FORMATS
from kdbench.runs.files import atomic_group, sha256, write_sealed
from kdbench.runs.tree import sidecar_path


def export_as(job: ExportJob, name: str, precision: str) -> Path:
    """Make one export and its sidecar.

    Args:
        name: of the format.

    Returns:
        Path of its file.

    Raises:
        NoSuchPrecision: the format has no such precision. BackendUnavailable: this machine cannot make it.
        RunFailed: what was made is not the model. Missing: it is made from an export that is not there.
    """
    known = FORMATS[name]
    if (reason := known.why_not(precision)) is not None:
        raise NoSuchPrecision(reason)
    path = job.path(name, precision)
    with atomic_group(path) as temporary:
        with job.watch.part("int8 ranges and rounding" if precision == "int8" else "writing"):
            written = STEPS[name].write(job, precision, temporary)
        fields = dict(written.fields)
        if written.candidate is not None:
            with job.watch.part(f"proof against {job.reference_name}"):
                fields["parity"] = prove(job, written.candidate, name, precision, written.graph).as_json()
    companions = {key: known.companion(path, key) for key in known.companions}
    write_sealed(
        sidecar_path(path),
        {
            **job.about(),
            "format": name,
            "precision": precision,
            **(job.int8_fields() if precision == "int8" else {}),
            **fields,
            **{
                key: {"file": file.name, "sha256": sha256(file), "bytes": file.stat().st_size}
                for key, file in companions.items()
            },
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
        },
    )
    return path


def prove(job: ExportJob, candidate: Backend, name: str, precision: str, graph: Path | None = None) -> Parity:
    """Hold an engine against PyTorch on the job's images, and close it.

    Args:
        graph: see ``Written``.

    Raises:
        RunFailed: it drifted further than its precision may, and drift is not allowed.
    """
    candidate.input = job.input
    if precision == "fp16" and not job.allow_drift and not job.fits_float16():
        candidate.close()
        raise RunFailed(
            f"{job.method} {name} fp16 {job.output}: values leave the range of float16 on real images, up to 65504, "
            "where an engine keeps them so: the export was not kept; export fp32, or --allow-drift keeps it"
        )
    try:
        parity = compare_outputs(job.reference, candidate, job.samples, job.trained["classes"])
    finally:
        candidate.close()
    if job.output == "mask" and graph is not None and (inside := logit_difference(job, graph)) is not None:
        parity = replace(parity, max_logit_difference=inside[0], logit_range=inside[1])
    if not job.allow_drift:
        require_parity(parity, precision, f"{job.method} {name} {precision} {job.output}", job.reference_name)
    return parity


def require_parity(parity: Parity, precision: str, what: str, reference: str = "PyTorch") -> None:
    """Raise RunFailed with one sentence when an export drifted further than its precision may."""
    if problem := drift(parity, precision, reference):
        more = ", --keep-float leaves layers in float" if precision == "int8" else ""
        raise RunFailed(f"{what}: {problem}: the export was not kept; --allow-drift keeps it{more}")
