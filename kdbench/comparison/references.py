"""What rows are held against: a method's checkpoints through PyTorch, an imported file's own fp32 run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kdbench.backends import load_backend
from kdbench.backends.apart import BackendApart
from kdbench.backends.base import Backend
from kdbench.backends.load import reference_of
from kdbench.comparison.evaluate import Evaluation, evaluate
from kdbench.data import SegmentationDataset
from kdbench.data.preprocessing import Size
from kdbench.errors import BadInput, KdbenchError, Missing, RunFailed, as_bug
from kdbench.models.network import Network
from kdbench.models.registry import count_gflops
from kdbench.progress import progress_bar
from kdbench.runs.imported import read_imported
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import RunTree, sidecar_path


class Through(Protocol):
    """How engines are run; of ``CompareOptions``."""

    @property
    def output(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def limit_s(self) -> float: ...


class Run(NamedTuple):
    """A method of a variant, or an imported file."""

    tree: RunTree
    method: str

    @property
    def name(self) -> str:
        return self.tree.run(self.method)

    @property
    def command(self) -> str:
        return f"kdbench train --method {self.method} --dataset {self.tree.dataset}"


@dataclass
class Reference:
    """What a run's exports are held against.

    Attributes:
        by_seed: of trained methods, seed → evaluation; the first is what exports are held against.
        sidecars: of trained methods, those of the seeds.
        imported: of an imported file, what ``imported.json`` says.
        own: of an imported file, its fp32 run.
        error: why there is none.
    """

    by_seed: dict[int, Evaluation] = field(default_factory=dict)
    sidecars: list[dict[str, Any]] = field(default_factory=list)
    imported: dict[str, Any] | None = None
    own: Evaluation | None = None
    error: KdbenchError | None = None

    @property
    def size(self) -> Size | None:
        """(H, W) of the input; all seeds' alike."""
        about = self.imported or (self.sidecars[0] if self.sidecars else None)
        return None if about is None else tuple(about["size"])

    @property
    def through(self) -> tuple[str, str]:
        """Backend and precision of the run that exports are held against."""
        return ("torch", "fp32") if self.imported is None else ("onnx", "fp32")

    @property
    def expected(self) -> Evaluation:
        """That run.

        Raises:
            KdbenchError: there is none.
        """
        if self.error is not None:
            raise self.error
        return self.own or next(iter(self.by_seed.values()))

    def about_row(self) -> dict[str, Any]:
        """The fields that each of a run's rows has of its model."""
        name = " ".join(self.through) if self.imported is not None else "torch"
        if self.imported is not None:
            return {"reference": name, "params": self.imported["params"], "student": self.imported["source"]["file"]}
        if not self.sidecars:
            return {"reference": name}
        first = self.sidecars[0]
        network = Network.recorded(first)
        about = {
            "reference": name, "params": first["params"], "student": network.label,
            "labelled": first.get("labelled_images", first["train_images"]),
            "unlabelled": first.get("unlabelled_images", 0),
        }  # fmt: skip
        if self.error is None:  # else the network may be none that can be built
            about["gflops"] = count_gflops(network, len(first["classes"]), (first["size"][0], first["size"][1]))
        return about


def evaluate_reference(run: Run, dataset: SegmentationDataset, options: Through) -> Reference:
    """Score what a run's exports are held against; whatever goes wrong is its ``error``."""
    reference = Reference()
    try:
        if run.tree.is_import(run.method):
            _evaluate_import(run, dataset, options, reference)
        else:
            _evaluate_checkpoints(run, dataset, options, reference)
    except KdbenchError as error:
        reference.error = error
    except Exception as error:
        reference.error = RunFailed(as_bug(error))
    return reference


def _evaluate_import(run: Run, dataset: SegmentationDataset, options: Through, reference: Reference) -> None:
    reference.imported = read_imported(run.tree.imported(run.method))
    _require_classes(
        reference.imported["classes"], dataset, f"'{run.method}' was imported for", "import the file again"
    )
    backend, _ = reference_of(run.tree, run.method)
    artifact = run.tree.export(run.method, *reference.through, options.output)
    reference.own = evaluate_artifact(backend, artifact, dataset, options, f"{run.name}, {backend} fp32", apart=True)


def _evaluate_checkpoints(run: Run, dataset: SegmentationDataset, options: Through, reference: Reference) -> None:
    paths, command = run.tree.seed_checkpoints(run.method), run.command
    if not run.tree.checkpoint(run.method).exists():
        raise Missing(f"no checkpoint '{run.tree.checkpoint(run.method)}': make it with `{command}`")
    for path in paths:
        sidecar = read_training_sidecar(sidecar_path(path), command)
        _require_classes(sidecar["classes"], dataset, f"'{path}' was trained on", f"train again with `{command}`")
        if sidecar["seed"] in reference.by_seed:
            raise BadInput(
                f"'{path}' has the seed {sidecar['seed']}, which an earlier one of {run.name} has, expected each "
                "seed once: remove the copy"
            )
        title = f"{run.name} seed {sidecar['seed']}, torch"
        reference.by_seed[sidecar["seed"]] = evaluate_artifact("torch", path, dataset, options, title)
        reference.sidecars.append(sidecar)


def _require_classes(classes: list[str], dataset: SegmentationDataset, what: str, fix: str) -> None:
    if classes != list(dataset.classes):
        raise BadInput(
            f"{what} the classes {', '.join(classes)}; dataset '{dataset.name}' has {', '.join(dataset.classes)} now: "
            f"put back its classes, or {fix}"
        )


def evaluate_artifact(
    backend_name: str,
    artifact: Path,
    dataset: SegmentationDataset,
    options: Through,
    title: str,
    apart: bool = False,
) -> Evaluation:
    """One pass over the split through a backend, with its predictions.

    Args:
        apart: in a process of its own, with a time limit: of a file from elsewhere.
    """
    how = {"output": options.output, "device": options.device, "threads": options.threads}
    backend: Backend
    if apart:
        backend = BackendApart(backend_name, artifact, how, options.limit_s)
    else:
        backend = load_backend(backend_name, artifact, **how)  # type: ignore[arg-type]
    try:
        with progress_bar(f"evaluate {title}", len(dataset)) as bar:
            return evaluate(backend, dataset, keep_predictions=True, on_image=bar.advance)
    finally:
        backend.close()


def require_one_size(references: list[Reference]) -> None:
    """Raise RunFailed where methods of one variant were trained at different sizes."""
    sizes = {tuple(sidecar["size"]) for reference in references for sidecar in reference.sidecars}
    if len(sizes) > 1:
        raise RunFailed(f"methods were trained at different sizes {sorted(sizes)}: train them with the same --size")
