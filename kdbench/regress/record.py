"""What was measured, call by call, and what follows from it: the gate's JSON file, schema version 1.

Every figure can be derived again from the recorded calls; ``Report.judged`` does, so a file can be replayed.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from kdbench.comparison.numbers import counted
from kdbench.errors import BadInput
from kdbench.regress.rule import Estimate, Judgement, Rule, Verdict, judge_together, too_few
from kdbench.runs.files import RECORDED, SCHEMA_VERSION, read_json, write_text
from kdbench.runs.recorded import AnEnvironment, Recorded, fits, problem_of

Arm = Literal["baseline", "candidate", "control"]
"""The control is a second copy of the baseline."""
ARMS: tuple[Arm, ...] = ("baseline", "candidate", "control")


Look = tuple[Annotated[int, Field(gt=0)], Annotated[float, Field(gt=0, lt=0.5)]]
Seconds = Annotated[float, Field(ge=0)]


class RulePart(Recorded):
    margin: float = Field(ge=0, le=1)
    tolerance: float = Field(ge=0, le=2)
    looks: list[tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, lt=0.5)]]] = Field(min_length=1)


class SettingsPart(Recorded):
    threads: int
    device: str
    budget_s: Seconds
    rule: RulePart


class Round(Recorded):
    """All arms in a random order, and back again: a drift that is linear in time weighs on all alike."""

    order: list[Arm]
    calls_ms: list[Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]]
    """Milliseconds per call: the samples of each slice, in ``order``."""

    @model_validator(mode="after")
    def whole(self) -> Round:
        if len(self.order) != len(self.calls_ms) or set(self.order) != set(ARMS):
            raise ValueError(f"expected calls of {', '.join(ARMS)}")
        return self

    def ln_ratio(self, arm: Arm) -> float:
        """ln of an arm's median call over the baseline's."""
        medians = [
            (name, math.log(float(np.median(calls)))) for name, calls in zip(self.order, self.calls_ms, strict=True)
        ]

        def mean(wanted: Arm) -> float:
            return float(np.mean([value for name, value in medians if name == wanted]))

        return mean(arm) - mean("baseline")


class Start(Recorded):
    """How a fresh process began."""

    load_ms: Seconds
    first_ms: Seconds
    peak_mib: Seconds


class Block(Recorded):
    """A fresh process for each arm."""

    rounds: list[Round] = Field(min_length=1)
    starts: dict[Arm, Start]
    warmup_calls: int
    seconds: Seconds
    load_average: float | None
    steal: float | None
    """Share of CPU time that the hypervisor gave to others; None where the system does not tell."""

    @field_validator("starts")
    @classmethod
    def of_each(cls, starts: dict[Arm, Start]) -> dict[Arm, Start]:
        if starts and set(starts) != set(ARMS):  # a recording that was made smaller has none
            raise ValueError(f"expected those of {', '.join(ARMS)}")
        return starts

    def ln_ratio(self, arm: Arm) -> float:
        return float(np.median([round_.ln_ratio(arm) for round_ in self.rounds]))


class Cell(Recorded):
    """One pair of artifacts."""

    name: str
    backend: str
    baseline: dict[str, Any]
    candidate: dict[str, Any]
    """Of each: path, sha256, bytes."""
    inputs: str
    outputs: str
    """How the outputs of both sides compare on the inputs."""
    outputs_same: bool
    samples_per_slice: int = 0
    calls_per_sample: int = 0
    """Above 1 where one call is too short to be timed."""
    blocks: list[Block] = Field(default_factory=list)
    looks: list[Look] = Field(default_factory=list)
    """(blocks so far, probability of a wrong verdict spent)."""
    seconds: Seconds = 0.0
    interrupted: bool = False

    @field_validator("looks")
    @classmethod
    def measured(cls, looks: list[tuple[int, float]], info: ValidationInfo) -> list[tuple[int, float]]:
        if looks and looks[-1][0] > len(blocks := info.data.get("blocks", [])):
            raise ValueError(
                f"got a look after {looks[-1][0]} blocks, expected at most the {len(blocks)} that are there"
            )
        return looks

    def ln_ratios(self, arm: Arm) -> NDArray[np.float64]:
        return np.array([block.ln_ratio(arm) for block in self.blocks])

    def calls(self, arm: Arm) -> NDArray[np.float64]:
        """Milliseconds of all calls of an arm."""
        return np.concatenate(
            [
                calls
                for block in self.blocks
                for round_ in block.rounds
                for name, calls in zip(round_.order, round_.calls_ms, strict=True)
                if name == arm
            ]
        )


class Recording(Recorded):
    """All that a run measured, and the rule that judges it."""

    environment: AnEnvironment
    settings: Annotated[dict[str, Any], fits(SettingsPart)]
    """threads, device, budget_s, seed, inputs, and the fields of ``rule``."""
    cells: list[Cell]

    @property
    def rule(self) -> Rule:
        fields = self.settings["rule"]
        looks = tuple((float(share), float(alpha)) for share, alpha in fields["looks"])
        return Rule(margin=fields["margin"], tolerance=fields["tolerance"], looks=looks)

    def judgements(self) -> list[Judgement | None]:
        """A cell's verdict; None where it was not measured far enough for one look."""
        looked = [cell for cell in self.cells if cell.looks]
        found = iter(
            judge_together(
                [(cell.ln_ratios("candidate"), cell.ln_ratios("control"), cell.looks) for cell in looked], self.rule
            )
        )
        return [next(found) if cell.looks else None for cell in self.cells]

    def verdict(self) -> tuple[Verdict, str]:
        """The run's verdict and its reason: the worst of the cells'; nothing measured is no pass."""
        worst: tuple[Verdict, str] = ("inconclusive", "nothing was measured")
        for wanted in ("regression", "inconclusive", "pass"):
            for cell, judgement in zip(self.cells, self.judgements(), strict=True):
                verdict, reason = cell_verdict(cell, judgement)
                if verdict == wanted:
                    prefix = f"{cell.name}: " if len(self.cells) > 1 else ""
                    return verdict, prefix + reason
        return worst

    def document(self) -> dict[str, Any]:
        """What the JSON file holds: verdicts and statistics first, then the recording that they follow from."""
        verdict, reason = self.verdict()
        judgements = self.judgements()
        cells: list[dict[str, Any]] = []
        for cell, judgement in zip(self.cells, judgements, strict=True):
            cell_verdict_, cell_reason = cell_verdict(cell, judgement)
            cells.append(
                {
                    "name": cell.name, "verdict": cell_verdict_, "reason": cell_reason,
                    "estimate": None if judgement is None else _finite(judgement.estimate),
                    "control": None if judgement is None else _finite(judgement.control),
                    "blocks": len(cell.blocks), "seconds": cell.seconds,
                }
            )  # fmt: skip
        shown = next((c["estimate"] or {} for c in cells if c["verdict"] == verdict), {})
        return {
            "schema_version": SCHEMA_VERSION, "verdict": verdict, "reason": reason, "ratio": shown.get("ratio"),
            "ci95": shown.get("ci95"), "blocks": sum(len(cell.blocks) for cell in self.cells),
            "seconds": round(sum(cell.seconds for cell in self.cells), 1), "cells": cells,
            "recording": self.model_dump(mode="json"),
        }  # fmt: skip

    def write(self, path: Path) -> None:
        # On few lines: tens of thousands of calls, one a line, would be a file that nobody opens.
        write_text(path, json.dumps(self.document(), allow_nan=False) + "\n")

    @staticmethod
    def read(path: Path) -> Recording:
        """Read what ``write`` wrote.

        Raises:
            Missing: no such file. BadInput: it is not the file of a gate.
        """
        document = read_json(path, "kdbench regress --json FILE", RECORDED)
        try:
            return Recording.model_validate(document.get("recording"))
        except ValidationError as error:
            raise BadInput(
                f"'{path}' is no gate's file (recording.{problem_of(error)}): expected one of `kdbench regress`"
            ) from error


def cell_verdict(cell: Cell, judgement: Judgement | None) -> tuple[Verdict, str]:
    if judgement is not None and judgement.verdict != "inconclusive":
        return judgement.verdict, judgement.reason
    if cell.interrupted:
        return "inconclusive", f"interrupted after {counted(len(cell.blocks), 'block')}"
    if judgement is None:
        return "inconclusive", (f"{too_few(len(cell.blocks))} for a verdict: give it more time with --budget")
    return judgement.verdict, judgement.reason


def _finite(found: Estimate) -> dict[str, Any]:
    """Numbers for JSON, which has no infinity: None."""

    def number(value: float) -> float | None:
        return round(value, 5) if math.isfinite(value) else None

    return {
        name: [number(v) for v in value] if isinstance(value, tuple) else number(value)
        for name, value in asdict(found).items()
    }
