"""Where everything lies below ``runs/``: a folder for each dataset, in it one for each method."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdbench.data.open import DATASETS, join_dataset
from kdbench.errors import BadInput, Missing
from kdbench.formats import FORMATS
from kdbench.methods.base import METHODS
from kdbench.runs.folder import IMPORTED, RunFolder
from kdbench.runs.folder import sidecar_path as sidecar_path  # paths are asked of this module

USUAL = "usual"
"""The name of the training that is no variant, where one is asked for."""
HOLD_OUT = "hold-out"
"""The part of a variant that says which recording training does not see: such a variant is a fold."""
TEACHERS_TOO = ("labelled", HOLD_OUT)
"""Parts of a variant that its teacher has too: it learns from the same labels, and sees no more scenes."""
PREDICTIONS = "predictions"
"""The folder of masks and overlays, beside methods or beside a file on its own."""
RESERVED = (
    "compare.csv", "compare.json", "compare.md", "compare.txt", "data.json", "latency", "package", "plots", PREDICTIONS,
    "report.html", "report.md",
)  # fmt: skip
"""What stands in a dataset's folder beside those of methods and variants."""
LONGEST = 48
"""Characters of a variant's part: some file systems take 255 bytes for a name."""


@dataclass(frozen=True)
class RunTree:
    """Paths below ``runs/<dataset>/``, the tree that train, export and compare share.

    Attributes:
        variant: of what differs from the dataset's usual training, as "student=student_lite0": its runs lie in a folder
            of that name; None = the usual training.
    """

    runs: Path
    dataset: str
    variant: str | None = None

    @property
    def root(self) -> Path:
        return self.runs / self.dataset

    @property
    def data_file(self) -> Path:
        """What was found of the dataset's files; see ``kdbench.data.remembered``."""
        return self.root / "data.json"

    def method_dir(self, method: str) -> Path:
        return self._within(self.teacher_variant if method == "teacher" else self.variant) / method

    def _within(self, variant: str | None) -> Path:
        return self.root if variant is None else self.root / variant

    @property
    def teacher_variant(self) -> str | None:
        """What of the variant its teacher differs by as well: the rest shares the teacher of the usual training."""
        return with_parts(self.variant, TEACHERS_TOO.__contains__)

    def run(self, method: str) -> str:
        """A method's name among those of all variants."""
        return run_name(self.variant, method)

    def of_variant(self, variant: str | None) -> RunTree:
        return RunTree(self.runs, self.dataset, variant)

    def variants(self) -> list[str | None]:
        """The usual training (None), then every variant that has a folder, by name."""
        return [None, *sorted(path.name for path in self.root.glob("*=*") if path.is_dir())]

    def trained_variants(self) -> list[str | None]:
        """Those in which any method has a checkpoint; a fold counts for the variant that it is a fold of."""
        methods = [method for method in METHODS.names() if method != "teacher"]
        trained = [v for v in self.variants() if any(self.of_variant(v).checkpoint(m).exists() for m in methods)]
        return list(dict.fromkeys(without_fold(variant) for variant in trained))

    def folds(self) -> list[RunTree]:
        """The folds of this variant that have a folder."""
        folds = [variant for variant in self.variants() if is_fold(variant) and without_fold(variant) == self.variant]
        return [self.of_variant(variant) for variant in folds]

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

    def imported(self, name: str) -> Path:
        """What ``kdbench import`` says of the file that it took in under a name."""
        return RunFolder(self.root / name).imported

    def imports(self) -> tuple[str, ...]:
        """Names of the imported files of the dataset."""
        return tuple(sorted(path.parent.name for path in self.root.glob(f"*/{IMPORTED}")))

    def is_import(self, method: str) -> bool:
        return method not in METHODS and self.imported(method).is_file()

    @property
    def comparison(self) -> Path:
        """What ``kdbench compare`` writes unless it is told where; .txt, .md and .csv lie beside it."""
        return self.root / "compare.json"

    @property
    def package(self) -> Path:
        """The folder that ``kdbench package`` writes unless it is told where."""
        return self.root / "package"

    @property
    def plots(self) -> Path:
        """Figures of the variant's trainings, unless ``kdbench plot`` is told where."""
        return self._within(self.variant) / "plots"

    @property
    def predictions(self) -> Path:
        """A folder for each method of the variant and backend, unless ``kdbench predict`` is told where."""
        return self._within(self.variant) / PREDICTIONS

    def latency(self, name: str) -> Path:
        """Every timed round of a backend, or of a suite."""
        return self.root / "latency" / f"{name}.json"

    def export(self, method: str, export_format: str, precision: str, output: str) -> Path:
        """``<method>/exports/<format>-<precision>/<output>.<format's suffix>``; its sidecar is ``.json``."""
        folder = self.folder(method).exports / f"{export_format}-{precision}"
        return folder / f"{output}.{FORMATS[export_format].suffix}"

    @staticmethod
    def find(runs: Path, dataset: str | None, variant: str | None = None) -> RunTree:
        """The tree of ``dataset``, or of the one trained last when none is named.

        Args:
            variant: its name, ``USUAL``, or None for the one trained last there, which is said where it is not the
                usual one.

        Raises:
            Missing: nothing was trained there yet.
            BadInput: there is no such dataset and nothing of that name, or no such variant.
        """
        if dataset is not None:
            tree = RunTree(runs, join_dataset(dataset))
            if not tree.root.is_dir():
                DATASETS[tree.dataset]  # a slip of the keyboard is not a training to make up for
        else:
            newest = last_sidecar(runs)
            if newest is None:
                raise Missing(f"no trained model under '{runs}': make one with `kdbench train --method all`")
            tree = RunTree(runs, newest.relative_to(runs).parts[0])
        if variant == USUAL:
            return tree
        if variant is not None:
            if variant not in tree.variants():
                known = ", ".join([USUAL, *(name for name in tree.variants() if name)])
                raise BadInput(f"--variant: got '{variant:.80}', expected one of {known}")
            return tree.of_variant(variant)
        every = [path for at in (".", "*=*") for path in _sidecars(tree.root, at) if path.stem != "teacher"]
        # A fold is there to be scored, not to be shipped: it is taken where nothing else was trained.
        students = [path for path in every if not is_fold(path.parent.parent.name)] or every
        folder = max(students, key=lambda p: p.stat().st_mtime).parent.parent if students else tree.root
        if folder == tree.root:
            return tree
        print(f"kdbench: taking the variant trained last, '{folder.name}': --variant names another", file=sys.stderr)
        return tree.of_variant(folder.name)


def last_sidecar(runs: Path) -> Path | None:
    """The sidecar of what was trained or imported last."""
    sidecars = [path for at in ("*", "*/*=*") for path in _sidecars(runs, at)]
    return max(sidecars, key=lambda path: path.stat().st_mtime, default=None)


def _sidecars(root: Path, at: str) -> list[Path]:
    """Sidecars of trained and imported models in the folders below ``root``/``at``."""
    names = ("student", "teacher")
    found = [path for m in METHODS.names() for name in names for path in root.glob(f"{at}/{m}/{name}.json")]
    return [*found, *root.glob(f"{at}/*/{IMPORTED}")]


def imports_below(folder: Path) -> tuple[str, ...]:
    """Names of the imported files in a name's folder, a dataset's, or a tree of runs."""
    found = {path.absolute().parent.name for at in ("", "*/", "*/*/") for path in folder.glob(f"{at}{IMPORTED}")}
    return tuple(sorted(found))


def run_name(variant: str | None, method: str) -> str:
    """ "response", or "student=student_lite0/response"."""
    return method if variant is None else f"{variant}/{method}"


def is_fold(variant: str | None) -> bool:
    """Whether a variant's training holds out a recording."""
    return without_fold(variant) != variant


def without_fold(variant: str | None) -> str | None:
    """The variant that a fold is one of; another is itself."""
    return with_parts(variant, lambda key: key != HOLD_OUT)


def with_parts(variant: str | None, wanted: Callable[[str], bool]) -> str | None:
    """What is left of a variant's name of the parts whose keys are wanted; None of nothing."""
    parts = (variant or "").split("+")
    return "+".join(part for part in parts if wanted(part.partition("=")[0])) or None


def variant_of(differs: dict[str, str]) -> str | None:
    """The name of a variant, which says what differs: {"student": "smp:Unet"} → "student=smp-Unet"; None of nothing."""
    parts = []
    for key, value in differs.items():
        short = re.sub(r"[^A-Za-z0-9._]+", "-", value).strip("-")
        if len(short) > LONGEST or not value.isascii():  # of 東京 and 大阪 nothing would be left
            short = f"{short[:LONGEST]}-{hashlib.sha256(value.encode()).hexdigest()[:8]}".removeprefix("-")
        parts.append(f"{key}={short}")
    return "+".join(parts) or None
