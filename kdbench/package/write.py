"""Writes the folder that is shipped: whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kdbench.errors import BadInput
from kdbench.package.card import model_card
from kdbench.package.runner import program, requirements
from kdbench.package.shipped import Shipped
from kdbench.package.triton import repository
from kdbench.runs.files import atomic_folder, read_json, sha256, write_json

MANIFEST = "manifest.json"
KIND = "package"


def write_package(shipped: Shipped, folder: Path, overwrite: bool = False) -> list[Path]:
    """Write a package.

    Args:
        folder: in place of which it comes, when it is finished.
        overwrite: whether a package may be there already.

    Returns:
        Paths of its files, relative to ``folder``.

    Raises:
        BadInput: there is something at ``folder`` that must not be replaced. RunFailed: it cannot be written.
    """
    check_destination(folder, overwrite)
    files: dict[Path, str | Path] = {
        **{Path(file.name): file for file in shipped.files},
        Path("MODEL_CARD.md"): model_card(shipped),
        Path("run.py"): program(shipped),
        Path("requirements.txt"): requirements(shipped),
        **{Path("model_repository") / path: what for path, what in repository(shipped).items()},
    }
    with atomic_folder(folder) as temporary:
        for path, what in files.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(what, Path):
                shutil.copyfile(what, temporary / path)
            else:
                (temporary / path).write_text(what, encoding="utf-8", errors="backslashreplace", newline="\n")
        write_json(temporary / MANIFEST, manifest(shipped, temporary, list(files)))
    return [*files, Path(MANIFEST)]


def check_destination(folder: Path, overwrite: bool) -> None:
    """Refuse to replace what is no package: a slip in --output must not cost a folder of something else."""
    if Path.cwd().is_relative_to(folder.resolve()) or os.path.ismount(folder):
        raise BadInput(f"--output: '{folder}' cannot be replaced as a whole: name a new folder inside it")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    ours = (folder / MANIFEST).is_file() and read_json(folder / MANIFEST, "kdbench package").get("kind") == KIND
    if not ours:
        raise BadInput(f"--output: '{folder}' is there and no package of kdbench, expected a new folder: name another")
    if not overwrite:
        raise BadInput(
            f"--output: '{folder}' is a package already: replace it with --overwrite, or name another folder"
        )


def manifest(shipped: Shipped, folder: Path, files: list[Path]) -> dict[str, object]:
    """What ``manifest.json`` says; itself is not in its list."""
    return {
        "schema_version": 1,
        "kind": KIND,
        "name": shipped.name,
        "files": {
            path.as_posix(): {"sha256": sha256(folder / path), "bytes": (folder / path).stat().st_size}
            for path in sorted(files)
        },
        "row": shipped.candidate.row.model_dump(mode="json"),
        "classes": shipped.classes,
        "reason": shipped.reason,
        "measured": shipped.comparison.environment,
    }
