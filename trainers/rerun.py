"""``kdbench train --from student.json``: a past training again, from what its sidecar says of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdbench.data import SegmentationDataset
from kdbench.data.unlabelled import ImagesWithoutLabels
from kdbench.errors import BadInput, Missing
from kdbench.runs.files import read_json, sha256
from kdbench.runs.folder import at_its_end
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import RunTree, sidecar_path
from trainers.methods import needs_teacher
from trainers.recipe import Recipe
from trainers.teacher import copy_teacher, difference


@dataclass(frozen=True)
class PastTraining:
    """A finished training.

    Attributes:
        sidecar: its .json, as ``kdbench train`` wrote it.
    """

    path: Path
    sidecar: dict[str, Any]
    recipe: Recipe

    @property
    def method(self) -> str:
        return str(self.sidecar["method"])

    @property
    def root(self) -> Path:
        """The folder that holds its methods or variants, <runs>/<dataset>."""
        folder = self.path.resolve().parent
        methods = folder.parent.parent if folder.name.startswith("seed-") else folder.parent
        return methods if self.variant is None else methods.parent

    @property
    def variant(self) -> str | None:
        return self.sidecar.get("variant")

    @property
    def tree(self) -> RunTree:
        return RunTree(self.root.parent, self.root.name, self.variant)


def read_past_training(path: Path) -> PastTraining:
    """Read a sidecar (or the one beside a checkpoint).

    Raises:
        Missing: no such file. BadInput: no sidecar of a finished training, or one that this version cannot repeat.
    """
    path = sidecar_path(path) if path.suffix == ".safetensors" else path
    sidecar = read_training_sidecar(path, "kdbench train")
    if "dataset" not in sidecar:
        raise BadInput(f"--from: '{path}' does not name its dataset, expected what kdbench train wrote: name another")
    if not at_its_end(sidecar):
        raise BadInput(
            f"--from: '{path}' is of epoch {sidecar['epoch']} of {sidecar['epochs']}, expected a finished training: "
            "finish it with --resume first"
        )
    if sidecar["epochs"] == 0:
        raise BadInput(
            f"--from: '{path}' was not trained, its weights are those of '{sidecar.get('weights')}': copy it"
        )
    if needs_teacher(sidecar["method"]) and sidecar.get("teacher") is None:
        raise BadInput(f"--from: '{path}' does not say which teacher it learnt from: name another")
    try:
        recipe = Recipe.model_validate(sidecar["recipe"])
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(
            f"--from: the recipe in '{path}' is not one of this kdbench ({'.'.join(map(str, first['loc']))}: "
            f"{first['msg']}): repeat it with revision {sidecar['environment']['git']['revision']}"
        ) from error
    return PastTraining(path, sidecar, recipe)


def require_new_place(past: PastTraining, tree: RunTree) -> None:
    """Raise BadInput where the repetition would replace the original."""
    if tree.root.resolve() == past.root:
        raise BadInput(
            f"--from: '{past.path}' lies under --runs '{tree.runs}', where its repetition would: name another"
        )


def require_same_data(
    past: PastTraining, train_set: SegmentationDataset, unlabelled: ImagesWithoutLabels | None
) -> None:
    """Raise BadInput where the data are not those of the past training."""
    was, now = past.sidecar["classes"], list(train_set.classes)
    if was != now:
        raise BadInput(f"--from: '{past.path}' knows {difference(was, now)}: name its data with --data-root")
    images = min(len(train_set), past.recipe.images or len(train_set))
    if images != past.sidecar["train_images"]:
        raise BadInput(
            f"--from: '{past.path}' was trained on {past.sidecar['train_images']} images, dataset '{train_set.name}' "
            f"has {images}: name its data with --data-root"
        )
    before, now_without = past.sidecar.get("unlabelled_train_images", 0), len(unlabelled or ())
    if before != now_without:
        raise BadInput(
            f"--from: '{past.path}' was trained beside {before} images without labels, now there are {now_without}: "
            "put back their folder as it was"
        )


def bring_teacher(past: PastTraining, tree: RunTree) -> None:
    """Put the very teacher that the past training learnt from into ``tree``.

    Raises:
        Missing: it is no longer where it was. BadInput: the tree has another teacher.
    """
    if not needs_teacher(past.method):
        return
    wanted = past.sidecar["teacher"]["sha256"]
    source, target = (place.checkpoint("teacher") for place in (past.tree, tree))
    if target.exists():
        if sha256(target) != wanted:
            raise BadInput(f"--from: '{target}' is not the teacher of '{past.path}': name another folder by --runs")
        return
    if not source.exists() or sha256(source) != wanted:
        raise Missing(
            f"--from: '{source}' is not the teacher (sha256 {wanted[:12]}…) that '{past.path}' learnt from: "
            f"put that one to '{target}', with its .json"
        )
    copy_teacher(past.tree, tree)


def verdict(past: PastTraining, checkpoint: Path) -> str:
    """One line: whether the weights are the same, and if not, what else differs between the two trainings."""
    now = read_json(sidecar_path(checkpoint), "kdbench train")
    if now["sha256"] == past.sidecar["sha256"]:
        return f"the same weights as '{past.path}', bit for bit"
    before, after = past.sidecar["environment"], now["environment"]
    changed = [
        f"{name} {old} → {new}"
        for name, old, new in (
            ("revision", before["git"]["revision"], after["git"]["revision"]),
            *(
                (p, before.get("versions", {}).get(p), after["versions"].get(p))
                for p in ("python", "torch", "torchvision")
            ),
            ("cpu", before.get("hardware", {}).get("cpu"), after["hardware"]["cpu"]),
            ("threads", past.sidecar.get("threads"), now["threads"]),
            ("device", past.sidecar.get("device"), now["device"]),
            ("processes", past.sidecar.get("processes"), now["processes"]),
        )
        if old != new
    ]
    return (
        f"other weights than '{past.path}': mIoU {past.sidecar['miou']:.4f} → {now['miou']:.4f}; "
        f"between the two: {', '.join(changed) or 'nothing that is recorded; try --deterministic for both'}"
    )
