"""How files are written and read: whole or not at all, and JSON with a schema version.

Writes are atomic: a temporary file beside it, fsync, then replace, so that a killed process leaves the old file or the
new one, never half of one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdbench.errors import BadInput, Missing, RunFailed, one_line
from kdbench.runs.beside import BEFORE, folder_beside

SCHEMA_VERSION = 1
LARGEST = 16 * 2**20
"""Bytes of a sidecar at most; recordings of many calls have more."""
RECORDED = 1024 * 2**20
"""Bytes of a recording at most."""
WEIGHTS = 16 * 2**30
"""Bytes of a network's file at most."""
SEAL, SEALED = "seal", "sha256-of-the-other-fields:"
"""Name of the field that seals a sidecar, and how its value begins."""
DEEPEST = 64
"""Levels of a JSON document at most."""

_NOT_WRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success the file there is synced and replaces ``path``, else it is removed.

    Raises:
        RunFailed: the disk is full, or the place cannot be written; what ``path`` held before is kept.
    """
    with _writing(path), folder_beside(path) as folder:
        temporary = folder / path.name
        yield temporary
        put_in_place(temporary, path)


@contextmanager
def atomic_group(path: Path) -> Iterator[Path]:
    """As ``atomic_path``, for a file with others beside it.

    Yields ``path``'s name in a temporary folder; on success every file in that folder replaces its namesake beside
    ``path``, ``path`` itself last.
    """
    with _writing(path), folder_beside(path) as folder:
        temporary = folder / path.name
        yield temporary
        for file in sorted(folder.iterdir(), key=lambda file: (file == temporary, file.name)):
            put_in_place(file, path.with_name(file.name))


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; on success it takes the place of ``path`` and all that was in it.

    Raises:
        RunFailed: the disk is full, or the place cannot be written; what ``path`` held before is kept.
    """
    with _writing(path), folder_beside(path) as folder:
        made, before = folder / "made", folder / BEFORE
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


def write_sealed(path: Path, document: dict[str, Any]) -> None:
    """A sidecar, with a hash over all of its other fields by which ``read_json`` finds a flipped bit."""
    fields = {key: value for key, value in document.items() if key != SEAL}
    write_json(path, {**fields, SEAL: seal_of(fields)})


def seal_of(fields: dict[str, Any]) -> str:
    """The hash over fields as canonical JSON, whatever their order and the file's white space."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return SEALED + hashlib.sha256(text.encode()).hexdigest()


def seals_in(document: dict[str, Any]) -> list[str]:
    """The fields that are a seal by their name or value: a flipped bit leaves one of the two."""
    return [
        key for key, value in document.items() if key == SEAL or (isinstance(value, str) and value.startswith(SEALED))
    ]


def read_json(path: Path, made_by: str, most: int = LARGEST) -> dict[str, Any]:
    """Read a sidecar or results file.

    Args:
        path: the file.
        made_by: the command that makes it, for the error.
        most: bytes that it may have.

    Raises:
        Missing: there is no such file.
        BadInput: it is no regular file, too large, not a JSON object, was written by a newer schema, or is not what
            its seal says; files from before have none.
    """
    if not path.exists():
        raise Missing(f"'{path}' does not exist: make it with `{made_by}`")
    again = f"make it again with `{made_by}`"
    require_regular(path, again, most)
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"'{path}' is not readable as JSON ({one_line(error, 200)}): {again}") from error
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
    if seals := seals_in(document):
        fields = {key: value for key, value in document.items() if key not in seals}
        if seals != [SEAL] or document[SEAL] != seal_of(fields):
            raise BadInput(
                f"'{path}' was damaged or edited since it was written (its seal does not fit): {again}, or take the "
                f"field '{SEAL}' out to trust what it says"
            )
    return document


def require_regular(path: Path, otherwise: str, most: int = LARGEST) -> None:
    """Refuse what is no file, before it is read: a pipe or a device would be waited for, a giant would fill memory.

    Args:
        otherwise: how to mend it.
        most: bytes that it may have.

    Raises:
        BadInput: it is something else, or too large.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise BadInput(f"'{path}' cannot be read ({error.strerror}): {otherwise}") from error
    if not stat.S_ISREG(about.st_mode):
        raise BadInput(f"'{path}' is not a regular file, expected a {path.suffix or 'plain'} file: {otherwise}")
    if about.st_size > most:
        raise BadInput(
            f"'{path}' has {about.st_size / 2**20:.0f} MiB, expected at most {most / 2**20:.0f}: {otherwise}"
        )


def read_text(path: Path, otherwise: str, most: int = LARGEST) -> str:
    """A text file in UTF-8, with the mark before it that some editors put there or without.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read. BadInput: it is no regular file, or too large.
    """
    require_regular(path, otherwise, most)
    return path.read_text(encoding="utf-8-sig")


def parse_json(text: str, finite: bool = True) -> Any:
    """A JSON document as we write them: no NaN or infinity, whole numbers of 64 bits, and not nested without end.

    Args:
        finite: False where the caller names fields that are not finite itself.

    Raises:
        ValueError: it is no JSON, or not such a one.
    """

    def whole(digits: str) -> int:
        if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
            raise ValueError(f"got the number {digits:.30}, expected 64 bits at most")
        return int(digits)

    def number(digits: str) -> float:
        if finite and not math.isfinite(float(digits)):
            raise ValueError(f"got the number {digits:.30}, expected a finite one")
        return float(digits)

    def constant(name: str) -> float:
        if not finite:
            return float(name)
        raise ValueError(f"got {name}, expected a finite number")

    try:
        document = json.loads(text, parse_int=whole, parse_float=number, parse_constant=constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level, at = [document], 0
    while level := [inner for outer in level if isinstance(outer, dict | list) for inner in _values(outer)]:
        if (at := at + 1) > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    return document


def _values(outer: dict[str, Any] | list[Any]) -> list[Any]:
    return list(outer.values()) if isinstance(outer, dict) else outer


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """A TOML file.

    Args:
        what: it is, for the error.

    Raises:
        BadInput: it cannot be read, is no regular file, too large, or no TOML.
    """
    try:
        return tomllib.loads(read_text(path, "name a TOML file"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise BadInput(f"{what} '{path}' cannot be read as TOML ({reason}): mend the file") from error


def sha256(path: Path) -> str:
    """The hash of a file's bytes.

    Raises:
        BadInput: it is no regular file, or larger than any network's.
    """
    require_regular(path, "put the file back", WEIGHTS)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
