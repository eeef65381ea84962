"""Timing contenders side by side: a process each, short slices in turn, everyone else suspended.

An engine in the same process would slow its neighbours (its threads spin), and a machine's speed drifts by more than
what is to be shown. Slices that lie close together in time share the drift, so it cancels in their ratio.
"""

from __future__ import annotations

import atexit
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import psutil
from scipy.stats import bootstrap

CALLS = 8
"""Timed calls in a slice; one more, the first after waking up, is dropped."""
WARMUP_CALLS = 20

Call = Callable[[int], Any]
"""One call of an engine; the argument counts calls, to choose among several inputs."""


class Timed(Protocol):
    """What ``alternate`` measures in slices."""

    name: str

    def slice_ms(self) -> float: ...


class Contender:
    """A process that times ``open_call(*arguments)``'s calls, suspended except while it does.

    Args:
        name: in tables.
        open_call: a module's function, run in the new process, that loads an engine and returns its ``Call``.
        calls, warmup: timed calls in a slice, and calls before any of them; fewer where one takes long.
    """

    def __init__(
        self,
        name: str,
        open_call: Callable[..., Call],
        *arguments: Any,
        calls: int = CALLS,
        warmup: int = WARMUP_CALLS,
    ) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, open_call, arguments, calls, warmup), daemon=True)
        self._process.start()
        atexit.register(self._process.kill)  # while it is suspended nothing else ends it, and our end waits for it
        theirs.close()
        self._connection.recv()  # warmed up; EOFError when the process died, whose traceback is on stderr
        self._handle = psutil.Process(self._process.pid)
        self._handle.suspend()

    def slice_ms(self) -> float:
        """Median of a slice's calls in milliseconds."""
        self._handle.resume()
        self._connection.send(True)
        milliseconds: float = self._connection.recv()
        self._handle.suspend()
        return milliseconds

    def stop(self) -> None:
        self._handle.resume()
        self._connection.send(False)
        self._process.join()


def _serve(
    connection: Connection, open_call: Callable[..., Call], arguments: tuple[Any, ...], calls: int, warmup: int
) -> None:
    call = open_call(*arguments)
    for index in range(warmup):
        call(index)
    connection.send("ready")
    while connection.recv():
        milliseconds = []
        for index in range(calls + 1):
            started = time.perf_counter()
            call(index)
            milliseconds.append((time.perf_counter() - started) * 1e3)
        connection.send(statistics.median(milliseconds[1:]))


def alternate(contenders: Sequence[Timed], blocks: int) -> dict[str, list[float]]:
    """Measure ``blocks`` slices of each in random order within a block and back again: name → milliseconds per block.

    A block is the order and its reverse, so that a drift that is linear within it weighs on all alike; its value is
    the geometric mean of the two slices.
    """
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(blocks):
        order = [contenders[i] for i in rng.permutation(len(contenders))]
        slices: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for contender in [*order, *reversed(order)]:
            slices[contender.name].append(contender.slice_ms())
        for name, values in slices.items():
            found[name].append(statistics.geometric_mean(values))
    return found


def ratio_with_interval(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """Median of the blocks' ratios, and its 95% percentile bootstrap interval over blocks."""
    ratios = np.array(numerator) / np.array(denominator)
    interval = bootstrap((ratios,), np.median, n_resamples=5000, method="percentile", rng=0).confidence_interval
    return float(np.median(ratios)), float(interval.low), float(interval.high)
