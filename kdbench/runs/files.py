"""How files are written and read: whole or not at all, and JSON with a schema version.

Writes are atomic: a temporary file in the same folder, fsync, then replace, so that a killed process leaves the old
file or the new one, never half of one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdbench.errors import BadInput, Missing, RunFailed

SCHEMA_VERSION = 1
LARGEST = 16 * 2**20
"""Bytes of a sidecar at most; recordings of many calls have more."""
RECORDED = 1024 * 2**20
"""Bytes of a recording at most."""

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
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            put_in_place(temporary, path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_group(path: Path) -> Iterator[Path]:
    """As ``atomic_path``, for a file with others beside it.

    Yields ``path``'s name in a temporary folder; on success every file in that folder replaces its namesake beside
    ``path``, ``path`` itself last.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            for file in sorted(Path(folder).iterdir(), key=lambda file: (file == temporary, file.name)):
                put_in_place(file, path.with_name(file.name))


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; on success it takes the place of ``path`` and all that was in it.

    Raises:
        RunFailed: the disk is full, or the place cannot be written; what ``path`` held before is kept.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            made, before = Path(folder) / "made", Path(folder) / "before"
            made.mkdir()
            yield made
            for file in made.rglob("*"):
                if file.is_file():
                    with open(file, "rb+") as written:
                        os.fsync(written.fileno())
            if path.exists():  # no file system replaces one folder by another in one step
                os.replace(path, before)
            try:
                os.replace(made, path)
            except OSError:
                if before.exists():
                    os.replace(before, path)
                raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise RunFailed(
            f"'{path}' cannot be written ({error.strerror}); what was written before is kept: "
            "make room or mend the folder, then run again"
        ) from error


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


def read_json(path: Path, made_by: str, most: int = LARGEST) -> dict[str, Any]:
    """Read a sidecar or results file.

    Args:
        path: the file.
        made_by: the command that makes it, for the error.
        most: bytes that it may have.

    Raises:
        Missing: there is no such file.
        BadInput: it is no regular file, too large, not a JSON object, or was written by a newer schema.
    """
    if not path.exists():
        raise Missing(f"'{path}' does not exist: make it with `{made_by}`")
    if not path.is_file():  # a pipe or a device would be waited for
        raise BadInput(f"'{path}' is not a regular file, expected a .json file: make it with `{made_by}`")
    if (size := path.stat().st_size) > most:
        raise BadInput(
            f"'{path}' has {size / 2**20:.0f} MiB, expected at most {most / 2**20:.0f}: make it again with `{made_by}`"
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    # ValueError: no JSON, no UTF-8, or a whole number of thousands of digits.
    except (OSError, RecursionError, ValueError) as error:
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
