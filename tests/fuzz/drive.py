"""Runs cases in a worker, ends what hangs, starts the worker again after a crash, and counts."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.corpus import KINDS, REPOSITORY

OUTCOMES = ("clean", "accepted", "wordless", "traceback", "hang", "crash")
BAD = OUTCOMES[2:]
LIMIT_S = 60.0
"""Seconds that a command may take."""
START_S = 120.0


class Worker:
    """A worker's process group.

    Args:
        traced: a folder of graphs that were traced before, see ``tests.traced``; without it the worker has its own.
        stand_in: code that runs in the worker's place.
    """

    def __init__(self, corpus: Path, seed: int, traced: Path | None = None, stand_in: str | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kdbench-fuzz-")
        self._log = Path(self._folder.name) / "stacks"
        program = ["-m", "tests.fuzz.worker"] if stand_in is None else ["-c", stand_in]
        traced = traced or Path(self._folder.name) / "traced"
        self._command = [sys.executable, *program, str(corpus), str(seed), str(self._log), str(traced)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._folder.cleanup()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(
            self._command, cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def run(self, kind: str, number: int, limit_s: float = LIMIT_S, start_s: float = START_S) -> dict[str, Any]:
        """One case: what the worker says of it, or how it ended."""
        fresh = self._process is None
        self._process = self._process or self._start()
        process, asked = self._process, {"kind": kind, "number": number}
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([kind, number, limit_s]).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], limit_s + start_s * fresh)
        if not ready:
            said = self._log.read_text() if self._log.exists() else ""
            self.close()
            return {**asked, "outcome": "hang", "said": said}
        if line := process.stdout.readline():
            return json.loads(line)
        code = process.wait()
        self.close()
        return {**asked, "outcome": "crash", "said": f"the worker ended with {code}"}

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None
        for left in Path(self._folder.name).iterdir():
            if left.is_dir():
                shutil.rmtree(left)


def shares(cases: int, slow: float) -> dict[str, int]:
    """How many cases each kind gets; a slow one ``slow`` times as many as another."""
    weights = {kind.name: (slow if kind.slow else 1.0) * len(kind.commands) ** 0.5 for kind in KINDS}
    whole = sum(weights.values())
    counts = {name: max(1, int(cases * weight / whole)) for name, weight in weights.items()}
    first = next(iter(counts))
    counts[first] += max(0, cases - sum(counts.values()))
    return counts


def require_sound(worker: Worker, slow: bool = True) -> None:
    """Every command accepts the sound file, or what it refuses of damaged ones would say nothing.

    Args:
        slow: those of slow kinds too.

    Raises:
        AssertionError: one does not.
    """
    for kind in (kind for kind in KINDS if slow or not kind.slow):
        for index in range(len(kind.commands)):
            result = worker.run(kind.name, index - len(kind.commands))
            assert result["outcome"] == "accepted", f"{kind.name}: {result}"


def run_cases(worker: Worker, counts: dict[str, int], budget_s: float | None = None) -> Iterator[dict[str, Any]]:
    """All cases, kinds in turn, so that what a budget cuts off is of all kinds."""
    started = time.monotonic()
    for number in range(max(counts.values())):
        for kind, count in counts.items():
            if number < count:
                if budget_s is not None and time.monotonic() - started > budget_s:
                    return
                yield worker.run(kind, number)


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts per kind, and for each what was accepted and why that does no harm."""
    kinds = {}
    for kind in KINDS:
        own = [result for result in results if result["kind"] == kind.name]
        counts = Counter(result["outcome"] for result in own)
        entry: dict[str, Any] = {"cases": len(own), **{outcome: counts[outcome] for outcome in OUTCOMES}}
        accepted = Counter(result["way"].partition(":")[0] for result in own if result["outcome"] == "accepted")
        if accepted:
            entry |= {"accepted_damage": dict(accepted.most_common()), "harmless_because": kind.harmless}
        kinds[kind.name] = entry
    whole = Counter(result["outcome"] for result in results)
    return {"cases": len(results), **{outcome: whole[outcome] for outcome in OUTCOMES}, "kinds": kinds}
