"""The gate study's live runs: which comes next, on a quiet machine or beside a neighbour, and what is kept of it."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.gate_models import CELLS, RECORDINGS, measure
from kdbench.regress.rule import Rule

SCENARIOS = {"A/A": 8, "+3%": 1, "+5%": 4, "+10%": 2, "-5%": 1}
"""Scenario → runs in each shuffled round of a cell."""


def schedule() -> Iterator[tuple[int, str, str]]:
    """(number, cell, scenario) without end: every round holds ``SCENARIOS`` of each cell, shuffled."""
    rng = np.random.default_rng(0)
    number = 0
    while True:
        runs = [(cell, scenario) for cell in CELLS for scenario, times in SCENARIOS.items() for _ in range(times)]
        for index in rng.permutation(len(runs)):
            yield number, *runs[index]
            number += 1


def run(minutes: float, loaded: bool, only: str | None, budget_s: float) -> None:
    """Do the next runs of the schedule, or of one scenario in it, until ``minutes`` are over; the last is finished."""
    until = time.monotonic() + 60 * minutes
    folder = RECORDINGS / ("loaded" if loaded else "quiet")
    for number, cell, scenario in schedule():
        file = folder / f"{number:04d}.json.gz"
        if file.exists() or only not in (None, scenario):
            continue
        if time.monotonic() > until:
            return
        sides = ("base", "base") if scenario == "A/A" else ("+5%", "base") if scenario == "-5%" else ("base", scenario)
        with background_load() if loaded else no_load():
            started = time.monotonic()
            recording = measure(cell, *sides, budget_s=budget_s, rule=Rule(), seed=number)
            seconds = time.monotonic() - started
        verdict, reason = recording.verdict()
        document = {
            "cell": cell,
            "scenario": scenario,
            "wall_seconds": seconds,
            "recording": recording.model_dump(mode="json"),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".part")
        temporary.write_bytes(gzip.compress(json.dumps(document).encode()))
        temporary.replace(file)
        print(f"{number} {cell} {scenario}: {verdict} after {seconds:.0f} s ({reason})", flush=True)


@contextmanager
def no_load() -> Iterator[None]:
    yield


@contextmanager
def background_load() -> Iterator[None]:
    """A neighbour that computes for 2 seconds on average, then rests for 4 on average."""
    process = multiprocessing.get_context("spawn").Process(target=_work_in_bursts, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _work_in_bursts() -> None:
    rng = np.random.default_rng()
    torch.set_num_threads(1)
    matrix = torch.rand(1024, 1024)
    while True:
        until = time.monotonic() + rng.exponential(2)
        while time.monotonic() < until:
            matrix @ matrix
        time.sleep(rng.exponential(4))
