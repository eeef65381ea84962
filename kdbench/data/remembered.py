"""What was found of a dataset's files, kept from one training to the next while the files are the same.

Files are the same where their names, sizes and times of change are. What is kept lies in ``data.json`` in the dataset's
folder of the runs, which may be removed at any time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import kdbench
from kdbench.data.base import ImageMaskPairs, SegmentationDataset
from kdbench.data.unlabelled import ImagesWithoutLabels
from kdbench.errors import KdbenchError
from kdbench.machine.environment import process_rank
from kdbench.runs.beside import remove_abandoned_once
from kdbench.runs.files import SCHEMA_VERSION, read_json, write_json

MOST = 64
"""Answers that are kept: of data that change again and again, the oldest go."""


def fingerprint(*datasets: SegmentationDataset) -> str | None:
    """A hash of the files of splits and of what their values mean; None where they are no files, or one is missing."""
    digest = hashlib.sha256(kdbench.__version__.encode())
    for dataset in datasets:
        if isinstance(dataset, ImagesWithoutLabels):
            files, meaning = dataset.files, ""
        elif isinstance(dataset, ImageMaskPairs):
            files = [file for pair in dataset.pairs for file in pair]
            meaning = dataset.meaning
        else:
            return None
        digest.update(repr((dataset.name, dataset.split, dataset.classes, meaning)).encode())
        try:
            for file in files:
                about = file.stat()
                digest.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
        except OSError:
            return None
    return digest.hexdigest()


def names_and_meaning(dataset: SegmentationDataset) -> str | None:
    """A hash of which images a split has and of what masks mean, wherever they lie; None where they are no files."""
    if not isinstance(dataset, ImageMaskPairs):
        return None
    digest = hashlib.sha256(repr((dataset.classes, dataset.label_meaning)).encode())
    for index in range(len(dataset)):
        digest.update(f"{dataset.name_of(index)}\0".encode())
    return digest.hexdigest()


class Remembered:
    """Answers by the files that they were found of.

    Args:
        path: of the file that keeps them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # A next training finds all that it asks for, and writes nothing here by itself.
        remove_abandoned_once(os.path.abspath(path.parent))

    def get(
        self, what: str, files: str | None, find: Callable[[], Any], keep: Callable[[Any], bool] = lambda _: True
    ) -> Any:
        """``find()``, or what it gave before; of what JSON can hold.

        Args:
            what: was asked, with all that the answer depends on besides the files.
            files: their ``fingerprint``; None = never kept.
            keep: whether an answer is worth it.
        """
        if files is None:
            return find()
        key = hashlib.sha256(f"{what}\0{files}".encode()).hexdigest()
        kept = self._read()
        if key in kept:
            return kept[key]
        found = find()
        if process_rank() == 0 and keep(found):
            entries = list({**self._read(), key: found}.items())
            with suppress(KdbenchError):  # who writes next says why nothing can be written there
                write_json(
                    self.path, {"schema_version": SCHEMA_VERSION, "kind": "data", "found": dict(entries[-MOST:])}
                )
        return found

    def _read(self) -> dict[str, Any]:
        try:
            found = read_json(self.path, "kdbench train").get("found")
        except KdbenchError:  # none yet, or a damaged one, which is written anew
            return {}
        return found if isinstance(found, dict) else {}
