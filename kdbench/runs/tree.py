"""Where everything lies below ``runs/``: a folder for each dataset, in it one for each method."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kdbench.data.open import DATASETS
from kdbench.errors import Missing
from kdbench.formats import FORMATS
from kdbench.methods.base import METHODS
from kdbench.runs.folder import RunFolder
from kdbench.runs.folder import sidecar_path as sidecar_path  # paths are asked of this module


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

    def folder(self, method: str, seed: int | None = None) -> RunFolder:
        """Where a method is trained: ``<method>/`` with the recipe's own seed (None), else ``<method>/seed-<n>/``."""
        own = RunFolder(self.method_dir(method), "teacher" if method == "teacher" else "student")
        return own if seed is None else RunFolder(own.path / f"seed-{seed}", own.name)

    def folders(self, method: str) -> list[RunFolder]:
        """The method's own folder, then those of further seeds that are there, in the order of the seeds."""
        own = self.folder(method)
        # A folder that a person named (seed-1-old) is no seed.
        others = [path.name[5:] for path in own.path.glob("seed-*") if re.fullmatch("seed-[0-9]+", path.name)]
        return [own, *(RunFolder(own.path / f"seed-{seed}", own.name) for seed in sorted(others, key=int))]

    def checkpoint(self, method: str) -> Path:
        """``student.safetensors`` of a method (``teacher.safetensors`` for the teacher); its sidecar is ``.json``."""
        return self.folder(method).checkpoint

    def seed_checkpoints(self, method: str) -> list[Path]:
        """The method's checkpoint, then those of further seeds (seed-<n>/student.safetensors): existing ones."""
        return [folder.checkpoint for folder in self.folders(method) if folder.checkpoint.exists()]

    @property
    def comparison(self) -> Path:
        """What ``kdbench compare`` writes unless it is told where; .txt, .md and .csv lie beside it."""
        return self.root / "compare.json"

    def latency(self, name: str) -> Path:
        """Every timed round of a backend, or of a suite."""
        return self.root / "latency" / f"{name}.json"

    def export(self, method: str, export_format: str, precision: str, output: str) -> Path:
        """``<method>/exports/<format>-<precision>/<output>.<format's suffix>``; its sidecar is ``.json``."""
        folder = self.folder(method).exports / f"{export_format}-{precision}"
        return folder / f"{output}.{FORMATS[export_format].suffix}"

    @staticmethod
    def find(runs: Path, dataset: str | None) -> RunTree:
        """The tree of ``dataset``, or of the one trained last when none is named.

        Raises:
            Missing: nothing was trained there yet. BadInput: there is no such dataset, and nothing of that name.
        """
        if dataset is not None:
            tree = RunTree(runs, dataset)
            if not tree.root.is_dir():
                DATASETS[dataset]  # a slip of the keyboard is not a training to make up for
            return tree
        names = METHODS.names()
        sidecars = [p for m in names for name in ("student", "teacher") for p in runs.glob(f"*/{m}/{name}.json")]
        if not sidecars:
            raise Missing(f"no trained model under '{runs}': make one with `kdbench train --method all`")
        newest = max(sidecars, key=lambda p: p.stat().st_mtime)
        return RunTree(runs, newest.parent.parent.name)
