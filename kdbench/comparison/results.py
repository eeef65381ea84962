"""The comparison as data: what ``compare --json`` writes, schema version 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from kdbench.comparison.numbers import counted
from kdbench.errors import BadInput
from kdbench.runs.files import RECORDED, SCHEMA_VERSION, read_json, write_text
from kdbench.runs.recorded import AnEnvironment, ARecipe, Recorded, fits, problem_of
from kdbench.runs.tree import run_name

Status = Literal["ok", "built", "unavailable", "unsupported", "failed"]
Verdict = Literal["gain", "loss", "no gain shown"]
Split = Literal["val", "new_scenes", "test"]
"""What trainings are scored on: the validation split, recordings held out fold by fold, a test split."""


Milliseconds = Annotated[float, Field(ge=0)]


class Part(Recorded):
    """Of the comparison; fields of a later version are left out."""


class DatasetPart(Part):
    name: Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")]
    """That of a folder below the runs, and so no path."""
    split: str
    images: int
    classes: list[str]


class TimingPart(Part):
    call: str
    batch: int
    threads: int
    rounds: int
    device: str


class TrainingPart(Part):
    """What a run's trainings had; see ``Comparison.training``."""

    seeds: list[int] = Field(min_length=1)
    miou_by_seed: list[float]
    epochs: int
    steps: int
    train_images: int
    train_seconds: list[float] = Field(min_length=1)
    revision: str | None
    command: str
    recipe: ARecipe = Field(default_factory=dict)


class Latency(Part):
    """Milliseconds per call; percentiles are None when fewer than 5 rounds lie beyond them."""

    median_ms: Milliseconds
    mean_ms: Milliseconds
    std_ms: Milliseconds
    p95_ms: Milliseconds | None
    p99_ms: Milliseconds | None
    ci95_ms: tuple[Milliseconds, Milliseconds]
    """Bootstrap interval of the median."""
    rounds: int
    throttled: float = Field(default=0.0, exclude=True)
    """Share of the time for which a container's CPU quota stopped the process; in the JSON a note says it."""


class Throughput(Part):
    """Images per second at a batch size, from the median call; ``reason`` says why a number is missing."""

    batch: int
    images_per_s: float | None = None
    ci95: tuple[float, float] | None = None
    """From the bootstrap interval of the median call."""
    reason: str | None = None


class Artifact(Part):
    """The very bytes whose accuracy and latency the row gives; the path is relative to the dataset's run tree.

    ``bytes`` counts a format's companions too. Of an OpenVINO export the path and hash are the .xml's; the hash of its
    weights is in ``engine["weights"]``.
    """

    path: str
    sha256: str
    bytes: int


class MiouLoss(Part):
    """mIoU of a method's float32 row minus this row's, a fraction: below zero where this one is better."""

    of: str
    """That row: "torch fp32", or the ``reference`` of an imported file."""
    loss: float
    ci95: tuple[float, float] | None
    """Paired bootstrap over the same images; None of a single image."""


class Row(Part):
    """One method through one backend; ``reason`` says why the status is not ok."""

    method: str
    variant: str | None = None
    """What differs from the dataset's usual training; None = nothing."""
    student: str | None = None
    """The network."""
    labelled: int | None = None
    unlabelled: int | None = None
    """Images that it learnt from, with and without their labels."""
    reference: str | None = None
    """What ``agreement_with_torch`` is with: "torch" of the same method; of an imported file, its own fp32 run."""
    backend: str
    precision: str
    output: str
    status: Status
    reason: str | None = None
    miou: float | None = None
    miou_ci95: tuple[float, float] | None = None
    """Bootstrap interval of ``miou`` over the split's images."""
    miou_loss: MiouLoss | None = None
    miou_by_split: dict[Split, float] | None = None
    """Of a torch row where recordings were held out or test was scored: means over seeds, and over folds."""
    iou_per_class: list[float | None] | None = None
    agreement_with_torch: float | None = None
    params: int | None = None
    gflops: float | None = None
    latency: Latency | None = None
    throughput: list[Throughput] | None = None
    """Of each batch size that was asked for, 1 among them; None where none was."""
    artifact: Artifact | None = None
    engine: dict[str, Any] | None = None
    """What ran: device, provider, threads, and in "operators" the share of compute operators per type."""

    @property
    def run(self) -> str:
        """The method's name among those of all variants."""
        return run_name(self.variant, self.method)

    def measured_files(self, root: Path) -> dict[Path, str]:
        """The files of the artifact that was measured, and the hash that each had; none where none was.

        Args:
            root: the tree of the dataset, that the artifact's path is below.
        """
        if self.artifact is None:
            return {}
        path = root / self.artifact.path
        files = {path: self.artifact.sha256}
        if (weights := (self.engine or {}).get("weights")) is not None:  # a hash of an .xml says nothing of its weights
            files[path.with_name(weights["file"])] = weights["sha256"]
        return files

    @property
    def best_throughput(self) -> Throughput | None:
        """That of the batch size with the most images per second."""
        measured = [one for one in self.throughput or () if one.images_per_s is not None]
        return max(measured, key=lambda one: one.images_per_s or 0.0, default=None)

    @property
    def imported(self) -> bool:
        """Whether it is of an imported file, which is held against its own fp32 run."""
        return self.reference not in (None, "torch")

    @property
    def reference_row(self) -> str:
        """Backend and precision of the row that agreement and loss are against."""
        return self.reference if self.reference is not None and self.imported else "torch fp32"


class GroupScore(Part):
    """mIoU on one recording's images, mean over trainings, and its difference to the baseline's."""

    miou: float
    delta_miou: float


ErrorOver = Literal["folds", "seeds", "images"]
"""What a standard error is over; of images alone where fewer than 3 seeds are paired."""


class Improvement(Part):
    """A method's mIoU minus the baseline's, paired by seed (or, with one seed, its spread over images)."""

    method: str
    variant: str | None = None
    """Its baseline is that of the same variant."""
    on: Split = "val"
    delta_miou: float
    standard_error: float
    standard_error_over: ErrorOver
    """"folds": of each fold's mean over its seeds."""
    seeds: int
    """Of each fold at least."""
    folds: int | None = None
    """Recordings that were held out in turn; None where none was."""
    baseline_miou: float
    miou_by_group: dict[str, GroupScore] | None = None
    """Recording → scores on its images, where recordings are known."""
    verdict: Verdict

    @property
    def run(self) -> str:
        return run_name(self.variant, self.method)

    @property
    def trainings(self) -> str:
        """How many were paired, as "3 seeds" or "4 folds of 2 seeds each"."""
        seeds = counted(self.seeds, "seed")
        return seeds if self.folds is None else f"{counted(self.folds, 'fold')} of {seeds}{' each' * (self.folds > 1)}"


class Teacher(Part):
    arch: str
    params: int
    miou: float
    lead: float | None
    """Over the baseline's mean mIoU over its seeds."""


class Comparison(Part):
    schema_version: Literal[1] = SCHEMA_VERSION  # type: ignore[assignment]
    environment: AnEnvironment
    dataset: Annotated[dict[str, Any], fits(DatasetPart)]
    """name, split, images, classes, size."""
    timing: Annotated[dict[str, Any], fits(TimingPart)]
    """What one timed call does, threads, rounds, batch."""
    rows: list[Row]
    improvements: list[Improvement]
    teacher: Teacher | None
    training: dict[str, Annotated[dict[str, Any], fits(TrainingPart)]]
    """Per run (a method, or "variant/method"): seeds, epochs, steps, wall-clock, revision."""
    notes: list[str]

    def improvements_on(self, split: Split) -> list[Improvement]:
        return [gain for gain in self.improvements if gain.on == split]

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")

    @staticmethod
    def read(path: Path) -> Comparison:
        """Read what ``write`` wrote.

        Raises:
            Missing: no such file. BadInput: it is no comparison.
        """
        document = read_json(path, "kdbench compare --json FILE", RECORDED)
        try:
            return Comparison.model_validate(document)
        except ValidationError as error:
            raise BadInput(
                f"'{path}' is no comparison ({problem_of(error)}): make it with `kdbench compare`"
            ) from error
