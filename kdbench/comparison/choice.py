"""Which artifact of a comparison to deploy: rules that take a comparison and limits, and claim no more than it shows.

    choice = choose_artifact(Comparison.read(path), Limits(max_ms=20))
    choice.chosen.row.artifact.path

Of the artifacts that meet every limit the fastest is taken. Those whose latency intervals overlap the fastest's are
equal in speed: of them the most accurate, and of equally accurate ones the smallest. mIoU is equal where its four
printed decimals are. A limit is met where the point estimate meets it; an interval that crosses it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdbench.backends import runs_checkpoints
from kdbench.comparison.results import Artifact, Comparison, Latency, MiouLoss, Row

Interval = tuple[float, float]
MEGABYTE = 1e6
ANY_LOSS = 1.0
"""The limit on the loss of mIoU that asks nothing, whether the loss is known or not."""


@dataclass(frozen=True)
class Limits:
    """What the artifact must be; None or () asks nothing.

    Attributes:
        max_miou_loss: against the float32 row of the same method, a fraction.
        max_ms: of the median of one call.
        min_miou: a fraction.
        max_mb: of the file and its companions, in 10^6 bytes.
        backends, methods: names.
        variants: names; None among them is the usual training.
    """

    max_miou_loss: float | None = 0.01
    max_ms: float | None = None
    min_miou: float | None = None
    max_mb: float | None = None
    backends: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    variants: tuple[str | None, ...] = ()

    def ask_for(self, row: Row) -> bool:
        """By its names. PyTorch's rows are what exports are held against: only where their backend is named."""
        wanted = row.backend in self.backends if self.backends else not runs_checkpoints(row.backend)
        return (
            wanted
            and (not self.methods or row.method in self.methods)
            and (not self.variants or row.variant in self.variants)
        )


@dataclass(frozen=True)
class Check:
    """A limit and what a row has of it.

    Attributes:
        flag: of the command line.
        limit: the most that is allowed; with ``least``, the least.
        got: None where the results cannot tell.
        interval: 95%; None where there is none.
        scale: the excess that counts as much as 100% of a limit.
    """

    flag: str
    limit: float
    got: float | None
    interval: Interval | None
    scale: float
    least: bool = False

    @property
    def met(self) -> bool:
        return self.got is not None and (self.got >= self.limit if self.least else self.got <= self.limit)

    @property
    def crossed(self) -> bool:
        """Whether the interval lies on both sides of the limit."""
        if self.interval is None:
            return False
        low, high = self.interval
        return low < self.limit <= high if self.least else low <= self.limit < high

    @property
    def excess(self) -> float:
        """How far it is missed: shares of the limit; a hundredth of mIoU counts as one percent."""
        if self.met:
            return 0.0
        return float("inf") if self.got is None else abs(self.got - self.limit) / self.scale


@dataclass(frozen=True)
class Candidate:
    """A measured row that could be deployed."""

    row: Row
    miou: float
    latency: Latency
    artifact: Artifact
    loss: MiouLoss | None
    checks: tuple[Check, ...]

    @property
    def misses(self) -> list[Check]:
        return [check for check in self.checks if not check.met]

    @property
    def crosses(self) -> list[Check]:
        return [check for check in self.checks if check.crossed]

    @property
    def megabytes(self) -> float:
        return self.artifact.bytes / MEGABYTE

    def as_json(self) -> dict[str, Any]:
        return {
            **self.row.model_dump(
                mode="json",
                include={"method", "variant", "backend", "precision", "output", "miou", "miou_ci95", "latency",
                         "artifact"},
            ),
            "miou_loss": self.loss.model_dump(mode="json") if self.loss else None,
            "misses": [check.flag for check in self.misses],
            "crosses": [check.flag for check in self.crosses],
        }  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What was chosen, and among what.

    Attributes:
        candidates: all that were considered, in the comparison's order.
        chosen: None where nothing meets the limits.
        equal: with ``chosen``, all that meet the limits as fast as it; at least itself.
        front: those that no other beats in latency or mIoU without losing in the other, fastest first.
        nearest: where nothing is chosen, what misses the fewest limits by the least; None without candidates.
    """

    limits: Limits
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    equal: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    nearest: Candidate | None


def choose_artifact(comparison: Comparison, limits: Limits) -> Choice:
    """The artifact to deploy under ``limits``, by the rules above."""
    candidates = candidates_of(comparison, limits)
    fitting = [candidate for candidate in candidates if not candidate.misses]
    equal = equal_in_speed(fitting)
    return Choice(
        limits=limits,
        candidates=tuple(candidates),
        chosen=min(equal, key=_accurate_then_small, default=None),
        equal=tuple(equal),
        front=tuple(front_of(candidates)),
        nearest=None if fitting else min(candidates, key=_distance, default=None),
    )


def candidates_of(comparison: Comparison, limits: Limits) -> list[Candidate]:
    """The measured rows that were asked for."""
    found = []
    for row in comparison.rows:
        if row.status != "ok" or row.miou is None or row.latency is None or row.artifact is None:
            continue
        if not limits.ask_for(row):
            continue
        loss = loss_of(comparison, row)
        checks = tuple(checks_of(row, row.latency, row.artifact, loss, limits))
        found.append(Candidate(row, row.miou, row.latency, row.artifact, loss, checks))
    return found


def loss_of(comparison: Comparison, row: Row) -> MiouLoss | None:
    """What a row says it loses; in a file of before, the difference from its reference's row, without an interval."""
    if row.miou_loss is not None or row.miou is None:
        return row.miou_loss
    names = list(dict.fromkeys(("torch fp32", row.reference_row)))
    measured = {
        f"{other.backend} {other.precision}": other.miou
        for other in comparison.rows
        if other.run == row.run and other.status == "ok" and other.miou is not None
    }
    of = next((name for name in names if name in measured), None)
    return None if of is None else MiouLoss(of=of, loss=measured[of] - row.miou, ci95=None)


def checks_of(row: Row, latency: Latency, artifact: Artifact, loss: MiouLoss | None, limits: Limits) -> list[Check]:
    """A check for each limit that was set."""
    checks = []
    if limits.max_miou_loss is not None and limits.max_miou_loss < ANY_LOSS:
        got, interval = (loss.loss, loss.ci95) if loss else (None, None)
        checks.append(Check("--max-miou-loss", limits.max_miou_loss, got, interval, scale=1.0))
    if limits.min_miou is not None:
        checks.append(Check("--min-miou", limits.min_miou, row.miou, row.miou_ci95, scale=1.0, least=True))
    if limits.max_ms is not None:
        checks.append(Check("--max-ms", limits.max_ms, latency.median_ms, latency.ci95_ms, scale=limits.max_ms))
    if limits.max_mb is not None:
        checks.append(Check("--max-mb", limits.max_mb, artifact.bytes / MEGABYTE, None, scale=limits.max_mb))
    return checks


def equal_in_speed(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those whose latency interval overlaps that of the fastest, by the median; fastest first."""
    by_speed = sorted(candidates, key=lambda candidate: candidate.latency.median_ms)
    return [one for one in by_speed if one.latency.ci95_ms[0] <= by_speed[0].latency.ci95_ms[1]]


def front_of(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The Pareto front of median latency and mIoU, fastest first; of equal points the first."""
    at: dict[tuple[float, float], Candidate] = {}
    for candidate in candidates:
        at.setdefault((candidate.latency.median_ms, candidate.miou), candidate)
    return [at[point] for point in pareto_front(list(at))]


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """(latency, mIoU) pairs that no other pair beats in one without losing in the other, fastest first."""
    front: list[tuple[float, float]] = []
    for ms, miou in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or miou > front[-1][1]:
            front.append((ms, miou))
    return front


def _accurate_then_small(candidate: Candidate) -> tuple[float, int, float]:
    return -round(candidate.miou, 4), candidate.artifact.bytes, candidate.latency.median_ms


def _distance(candidate: Candidate) -> tuple[int, float, float]:
    misses = candidate.misses
    return len(misses), sum(check.excess for check in misses), candidate.latency.median_ms
