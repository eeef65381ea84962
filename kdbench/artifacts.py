"""Files that stages hand to each other: where they lie, how they are written, what travels beside them.

Every artifact (a checkpoint, an ONNX file, an engine, a comparison) has a JSON sidecar with the same stem. Writes are
atomic: a temporary file in the same folder, fsync, then replace, so that a killed process leaves the old file or the
new one, never half of one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import BadInput, Missing, RunFailed

SCHEMA_VERSION = 1
STANDARD_METHODS = ("baseline", "response", "feature", "combined")
"""The guide's; ``train --method all`` is these and the teacher, so that nobody's time doubles without being asked."""
TIME_MATCHED = "baseline-long"
"""The baseline with as many epochs as fit in the wall-clock of a distilled method."""
STUDENT_METHODS = (*STANDARD_METHODS, "cwd", "dist", "imitation", TIME_MATCHED)
METHODS = (*STUDENT_METHODS, "teacher")
BACKENDS = ("torch", "torch-channels-last", "torch-compile", "onnx", "openvino", "trt")
USUAL_BACKENDS = ("torch", "onnx", "openvino", "trt")
"""What "all" stands for: the other ways of running PyTorch cost minutes and are measured when they are named."""
PRECISIONS = ("fp32", "fp16", "int8")
EXPORT_SUFFIX = {"onnx": "onnx", "trt": "engine", "openvino": "xml"}
"""Format → suffix of its file; beside OpenVINO's .xml lies a .bin with the weights."""


@dataclass(frozen=True)
class RunTree:
    """Paths below ``runs/<dataset>/``, the tree that train, export and compare share."""

    runs: Path
    dataset: str

    @property
    def root(self) -> Path:
        return self.runs / self.dataset

    def method_dir(self, method: str) -> Path:
        return self.root / method

    def checkpoint(self, method: str) -> Path:
        """``student.safetensors`` of a method (``teacher.safetensors`` for the teacher); its sidecar is ``.json``."""
        return self.method_dir(method) / ("teacher.safetensors" if method == "teacher" else "student.safetensors")

    def seed_checkpoints(self, method: str) -> list[Path]:
        """The method's checkpoint, then those of further seeds (seed-<n>/student.safetensors): existing ones."""
        first = self.checkpoint(method)
        return [path for path in (first, *seed_files(self.method_dir(method), first.name)) if path.exists()]

    def export(self, method: str, export_format: str, precision: str, output: str) -> Path:
        """``<method>/exports/<format>-<precision>/<output>.<onnx|engine|xml>``; its sidecar is ``.json``."""
        folder = self.method_dir(method) / "exports" / f"{export_format}-{precision}"
        return folder / f"{output}.{EXPORT_SUFFIX[export_format]}"

    @staticmethod
    def find(runs: Path, dataset: str | None) -> RunTree:
        """The tree of ``dataset``, or of the one trained last when none is named.

        Raises:
            Missing: nothing was trained there yet.
        """
        if dataset is not None:
            return RunTree(runs, dataset)
        sidecars = [p for m in METHODS for name in ("student", "teacher") for p in runs.glob(f"*/{m}/{name}.json")]
        if not sidecars:
            raise Missing(f"no trained model under '{runs}': make one with `kdbench train --method all`")
        newest = max(sidecars, key=lambda p: p.stat().st_mtime)
        return RunTree(runs, newest.parent.parent.name)


def seed_files(method_dir: Path, name: str) -> list[Path]:
    """``seed-<n>/<name>`` in the order of n; a folder that a person named (seed-1-old) is no seed."""
    numbered = [p for p in method_dir.glob(f"seed-*/{name}") if re.fullmatch("seed-[0-9]+", p.parent.name)]
    return sorted(numbered, key=lambda path: int(path.parent.name[5:]))


def sidecar_path(artifact: Path) -> Path:
    return artifact.with_suffix(".json")


_NOT_WRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and replaces ``path``, else it is removed.

    Raises:
        RunFailed: the disk is full, or the place cannot be written; what ``path`` held before is kept.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        put_in_place(temporary, path)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise RunFailed(
            f"'{path}' cannot be written ({error.strerror}); what was written before is kept: "
            "make room or mend the folder, then run again"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that processes killed while writing ``path`` left; nobody may be writing it now."""
    for leftover in path.parent.glob(f".{path.stem}-????????{path.suffix}"):
        leftover.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Sync a finished file and let it replace ``path``, on the same file system."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    temporary.chmod(0o644)  # mkstemp's 0600 would hide artifacts from the rest of a team
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        # Names of files that are not UTF-8 reach texts as lone surrogates.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: Path, document: dict[str, Any]) -> None:
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """Read a sidecar or results file.

    Args:
        path: the file.
        made_by: the command that makes it, for the error.

    Raises:
        Missing: there is no such file.
        BadInput: it is not a JSON object, or was written by a newer schema.
    """
    if not path.exists():
        raise Missing(f"'{path}' does not exist: make it with `{made_by}`")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"'{path}' is not readable as JSON ({error}): make it again with `{made_by}`") from error
    if not isinstance(document, dict):
        raise BadInput(
            f"'{path}' holds a JSON {type(document).__name__}, expected an object: make it again with `{made_by}`"
        )
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BadInput(
            f"'{path}' has schema_version {version}, this kdbench reads {SCHEMA_VERSION}: "
            f"make it again with `{made_by}`"
        )
    return document


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(path: Path, state: dict[str, Any], sidecar: dict[str, Any]) -> None:
    """Write ``state`` (name → tensor) as safetensors, then its sidecar with the hash of what was written."""
    from safetensors.torch import save

    with atomic_path(path) as temporary:
        # Through bytes: on a full disk save_file raises its own error, which looks like any other.
        temporary.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))
    write_json(sidecar_path(path), {"schema_version": SCHEMA_VERSION, **sidecar, "sha256": sha256(path)})


def load_checkpoint(path: Path, made_by: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint and its sidecar: (state dict, sidecar).

    Raises:
        Missing: no checkpoint. BadInput: cut short, not safetensors, or not the file that the sidecar describes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        raise Missing(f"no checkpoint '{path}': make it with `{made_by}`")
    sidecar = read_json(sidecar_path(path), made_by)
    lacking = [key for key in ("arch", "classes", "size") if key not in sidecar]
    if lacking:
        raise BadInput(
            f"'{sidecar_path(path)}' lacks {', '.join(lacking)}, expected the sidecar of a training: "
            f"make it again with `{made_by}`"
        )
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"checkpoint '{path}' is corrupt ({error}): make it again with `{made_by}`") from error
    if sha256(path) != sidecar.get("sha256"):
        raise BadInput(
            f"checkpoint '{path}' is not the file that its sidecar describes (sha256 differs): "
            f"make both again with `{made_by}`"
        )
    return state, sidecar
