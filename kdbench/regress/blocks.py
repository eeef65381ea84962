"""Measuring one pair of artifacts: blocks of fresh processes, slices in turn, everyone else suspended."""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from kdbench.comparison.numbers import counted
from kdbench.errors import RunFailed
from kdbench.machine.cores import usable_cores
from kdbench.machine.scratch import ScratchFolder
from kdbench.machine.state import StealMeter, load_average
from kdbench.regress.artifact import Artifact
from kdbench.regress.record import ARMS, Arm, Block, Cell, Round, Start
from kdbench.regress.rule import Rule, can_decide, judge

SLICE_MS, SLICE_SAMPLES, SAMPLE_MS = 50.0, 5, 1.0
"""A slice of the slowest side lasts at least this long and has so many samples or more; calls that are shorter than a
sample are timed several at once."""
WARMUP_WINDOW, WARMUP_AGREEMENT, WARMUP_CAP = 3, 0.05, 4
"""Calls per window of the warm-up; adjacent windows' medians must agree within this share; windows at most."""

BEYOND_BUDGET_S = 60.0
"""What a process may take beyond the whole budget for one answer, before it is taken to hang."""
FEWEST_ROUNDS = 3
"""In a block: their median bears one that was disturbed."""
MANY_BLOCKS = 24
"""Blocks that a budget should hold: what processes differ in averages out over blocks alone."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        budget_s: seconds for a cell, from its first process to its verdict.
        rounds: rounds in a block, fewer where blocks would become so long that there are under ``MANY_BLOCKS``.
        seed: of the orders.
    """

    threads: int
    device: str
    budget_s: float
    seed: int
    rule: Rule
    rounds: int = 4
    max_blocks: int | None = None


class Worker:
    """A process of ``worker.py``; suspended whenever it does not measure, so that its threads cannot spin."""

    def __init__(self, artifact: Artifact, settings: Settings, inputs: Path) -> None:
        spec = {**artifact.spec(), "inputs": str(inputs), "threads": settings.threads, "device": settings.device,
                "parent": os.getpid()}  # fmt: skip
        self.artifact = artifact
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop()
        path = [str(artifact.checkout), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(settings.threads), "PYTHONPATH": os.pathsep.join(filter(None, path)),
        }  # fmt: skip
        # -P: neither this file's folder nor the current one may hide the side's own kdbench.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), json.dumps(spec)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment,
        )  # fmt: skip
        self._handle = psutil.Process(self._process.pid)
        self._limit_s = settings.budget_s + BEYOND_BUDGET_S

    def started(self) -> Start:
        """Wait until it is loaded, and suspend it."""
        start = Start.model_validate(self._answer())
        self._handle.suspend()
        return start

    def ask(self, command: str) -> Any:
        """Wake it, let it do one thing, suspend it again."""
        self._handle.resume()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died: the answer says so
            self._process.stdin.write(f"{command}\n".encode())
            self._process.stdin.flush()
        answer = self._answer()
        self._handle.suspend()
        return answer

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        hangs = threading.Event()

        def end() -> None:
            hangs.set()
            self._process.kill()

        timer = threading.Timer(self._limit_s, end)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            why = f"it gave no answer within {self._limit_s:g} s" if hangs.is_set() else self._why()
            raise RunFailed(f"'{self.artifact.shown}' cannot be timed: {why}")
        return json.loads(line)

    def _why(self) -> str:
        """The last line that a dead process said, else how it ended."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        if code < 0 or not lines:
            return f"its process ended by signal {-code}" if code < 0 else f"its process ended with exit code {code}"
        return lines[-1].removeprefix("kdbench.errors.")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]


@dataclass(frozen=True)
class Trial:
    """One process of a side, before anything is measured.

    Attributes:
        outputs: what the artifact makes of every input.
        start_s: seconds until it was loaded and had made its first call.
        call_ms: a later call, about.
    """

    outputs: list[Any]
    start_s: float
    call_ms: float


def try_out(artifact: Artifact, settings: Settings, inputs: Path) -> Trial:
    """Run an artifact on every input.

    Raises:
        RunFailed: it does not run.
    """
    with ScratchFolder("regress") as folder, ExitStack() as stack:
        began = time.monotonic()
        worker = Worker(artifact, settings, inputs)
        stack.callback(worker.stop)
        worker.started()
        start_s = time.monotonic() - began
        worker.ask(f"outputs {Path(folder) / 'outputs.npz'}")
        call_ms = statistics.median(worker.ask(f"calls {WARMUP_WINDOW} 1"))
        with np.load(Path(folder) / "outputs.npz") as found:
            return Trial([found[str(i)] for i in range(len(found))], start_s, call_ms)


def shortest_block_s(trials: Sequence[Trial], cores: int) -> float:
    """What a block takes at least, in seconds: its processes start together, warm up, and measure the fewest rounds.

    Args:
        trials: of baseline and candidate; the baseline starts twice.
        cores: which starting processes share.
    """
    call_s = max(trial.call_ms for trial in trials) / 1e3
    warm_up = 2 * len(ARMS) * (WARMUP_WINDOW + 1) * call_s
    a_slice = call_s + max(SLICE_MS / 1e3, SLICE_SAMPLES * call_s)
    starts = [trial.start_s for trial in (*trials, trials[0])]
    return max(max(starts), sum(starts) / cores) + warm_up + FEWEST_ROUNDS * 2 * len(ARMS) * a_slice


def warning_of_budget(name: str, trials: Sequence[Trial], settings: Settings, cells: int) -> str | None:
    """What to say before the start where the budget cannot hold the blocks of any verdict; None where it can."""
    alpha = sum(alpha for _, alpha in settings.rule.looks) / cells
    needed = next(blocks for blocks in itertools.count(1) if can_decide(blocks, alpha))
    takes = shortest_block_s(trials, usable_cores())
    if needed * takes <= settings.budget_s:
        return None
    enough = 10 * math.ceil(2 * needed * takes / 10)
    return (
        f"{name}: a verdict needs {counted(needed, 'block')}, one takes {takes:.1f} s or more with this artifact: "
        f"--budget {settings.budget_s:g} will not do and ends inconclusive; try --budget {enough}"
    )


def measure_cell(
    cell: Cell,
    sides: tuple[Artifact, Artifact],
    inputs: Path,
    settings: Settings,
    cells: int,
    on_block: Callable[[Cell, float], None],
) -> None:
    """Add blocks and looks to ``cell`` until a look decides or the time is spent.

    Args:
        cell: its ``blocks`` and ``looks`` are filled; after Ctrl-C it holds what was measured so far.
        sides: baseline and candidate.
        inputs: .npy, one entry per input.
        cells: how many cells the run has: each spends its share of the error.
        on_block: told after every block, with the share of the time that is spent.
    """
    artifacts: dict[Arm, Artifact] = {"baseline": sides[0], "candidate": sides[1], "control": sides[0]}
    rng = np.random.default_rng(settings.seed)
    started = time.monotonic()
    pending = list(settings.rule.looks)
    rounds = settings.rounds
    while True:
        cell.blocks.append(_block(artifacts, inputs, settings, rounds, rng, cell))
        if len(cell.blocks) == 1:
            rounds = _rounds_that_fit(cell, settings)
        elapsed = time.monotonic() - started
        cell.seconds = round(elapsed, 2)
        longest = max(block.seconds for block in cell.blocks)
        last = elapsed + longest > settings.budget_s or len(cell.blocks) == settings.max_blocks
        due = [look for look in pending if last or elapsed >= look[0] * settings.budget_s]
        # What each of them may spend is fixed in advance: several at once may spend the sum. One that could reject
        # nothing yet waits for more blocks.
        alpha = sum(alpha for _, alpha in due)
        looked = bool(due) and (last or can_decide(len(cell.blocks), alpha / cells))
        if looked:
            pending = pending[len(due) :]
            cell.looks.append((len(cell.blocks), alpha))
        on_block(cell, elapsed / settings.budget_s)
        if last or (looked and _decided(cell, settings.rule, cells)):
            return


def _rounds_that_fit(cell: Cell, settings: Settings) -> int:
    """As many rounds as let the budget hold ``MANY_BLOCKS``, by what the first block took."""
    first = cell.blocks[0]
    measuring = sum(ms for round_ in first.rounds for slice_ in round_.calls_ms for ms in slice_) / 1e3
    per_round = cell.calls_per_sample * measuring / len(first.rounds)
    starting = first.seconds - per_round * len(first.rounds)
    fitting = int((settings.budget_s / MANY_BLOCKS - starting) / per_round)
    return min(settings.rounds, max(FEWEST_ROUNDS, fitting))


def _decided(cell: Cell, rule: Rule, cells: int) -> bool:
    alpha = cell.looks[-1][1] / cells
    return judge(cell.ln_ratios("candidate"), cell.ln_ratios("control"), alpha, rule).verdict != "inconclusive"


def _block(
    artifacts: dict[Arm, Artifact],
    inputs: Path,
    settings: Settings,
    rounds: int,
    rng: np.random.Generator,
    cell: Cell,
) -> Block:
    """Start a process for each arm, warm all up alike, and measure the rounds."""
    began, meter = time.monotonic(), StealMeter()
    workers: dict[Arm, Worker] = {}
    with ExitStack() as stack:
        for index in rng.permutation(len(ARMS)):
            workers[ARMS[index]] = Worker(artifacts[ARMS[index]], settings, inputs)
            stack.callback(workers[ARMS[index]].stop)
        starts = {arm: worker.started() for arm, worker in workers.items()}
        warmup_calls, call_ms = _warm_up(workers, rng)
        if cell.samples_per_slice == 0:  # decided once: every block of a cell must measure alike
            cell.calls_per_sample = int(np.ceil(SAMPLE_MS / call_ms))
            cell.samples_per_slice = max(SLICE_SAMPLES, int(np.ceil(SLICE_MS / (call_ms * cell.calls_per_sample))))
        ask = f"calls {cell.samples_per_slice} {cell.calls_per_sample}"
        measured = []
        for _ in range(rounds):
            order = [ARMS[index] for index in rng.permutation(len(ARMS))]
            order += reversed(order)
            calls = [workers[arm].ask(ask) for arm in order]
            measured.append(Round(order=order, calls_ms=[[round(ms, 5) for ms in slice_] for slice_ in calls]))
    return Block(
        rounds=measured, starts=starts, warmup_calls=warmup_calls, seconds=round(time.monotonic() - began, 3),
        load_average=load_average(), steal=meter.share(),
    )  # fmt: skip


def _warm_up(workers: dict[Arm, Worker], rng: np.random.Generator) -> tuple[int, float]:
    """Run all arms until adjacent windows of each agree, at most to the cap: all get the longest arm's warm-up.

    Returns:
        Calls per arm, and the slowest arm's last median in milliseconds.
    """
    before: dict[Arm, float] = {}
    windows = 0
    while windows < WARMUP_CAP:
        windows += 1
        order = [ARMS[index] for index in rng.permutation(len(ARMS))]
        now = {arm: statistics.median(workers[arm].ask(f"calls {WARMUP_WINDOW} 1")) for arm in order}
        if before and all(abs(now[arm] / before[arm] - 1) <= WARMUP_AGREEMENT for arm in ARMS):
            break
        before = now
    return windows * (WARMUP_WINDOW + 1), max(now.values())
