"""Progress of long work: a bar with ETA on a terminal, plain lines in a log. Everything goes to stderr."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kdbench.machine.environment import process_rank

if TYPE_CHECKING:
    from rich.progress import Progress

LINE_EVERY_SECONDS = 15.0
QUIET = "KDBENCH_QUIET"
"""Environment variable, so that processes which a command starts are quiet too."""


@contextmanager
def silenced(quiet: bool) -> Iterator[None]:
    """Show no progress while the block runs, if ``quiet`` or the environment says so."""
    before = os.environ.get(QUIET)
    if quiet:
        os.environ[QUIET] = "1"
    try:
        yield
    finally:
        if quiet:
            os.environ.pop(QUIET)
            if before is not None:
                os.environ[QUIET] = before


def is_quiet() -> bool:
    return os.environ.get(QUIET, "") not in ("", "0")


class Bar:
    """One task; ``advance`` may be called as often as one likes."""

    def __init__(
        self, title: str, total: int | None, progress: Progress | None, every_seconds: float = LINE_EVERY_SECONDS
    ) -> None:
        self.title, self.total, self.done, self.text = title, total, 0, ""
        self._progress = progress
        self._every_seconds = every_seconds
        self._task = progress.add_task(title, total=total, text="") if progress else None
        self._started = self._printed = time.monotonic()

    def advance(self, steps: int = 1, text: str = "") -> None:
        """Count ``steps`` more of the total, and show ``text`` (running loss, current ratio) beside the bar."""
        self.done += steps
        self.text = text or self.text
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=steps, text=self.text)
            return
        now = time.monotonic()
        if now - self._printed >= self._every_seconds:
            self._printed = now
            count = f"{self.done}"
            if self.total is not None:
                left = (now - self._started) / self.done * (self.total - self.done)
                count += f"/{self.total}, {left:.0f} s left"
            print(f"{self.title}: {count}  {self.text}", file=sys.stderr, flush=True)


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Bar]:
    """Show progress of ``total`` steps (None: nobody knows) while the block runs; one of several processes does."""
    if process_rank() > 0 or is_quiet():
        yield Bar(title, total, None, every_seconds=math.inf)
        return
    if (progress := _rich_progress()) is None:
        yield Bar(title, total, None)
        return
    with progress:
        yield Bar(title, total, progress)


def _rich_progress() -> Progress | None:
    """What draws bars; None without a terminal, and where rich is missing, which training does without."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )  # fmt: skip
        from rich.table import Column
    except ImportError:
        return None
    console = Console(stderr=True)
    if not console.is_terminal:
        return None

    # Where a terminal is narrow, what is told beside the bar is cut, then the title: never the count and the ETA.
    def cut(*, ratio: int | None = None, most: int | None = None) -> Column:
        return Column(no_wrap=True, overflow="ellipsis", ratio=ratio, max_width=most)

    columns = (
        TextColumn("{task.description}", table_column=cut(most=console.width // 3)),
        BarColumn(bar_width=max(8, min(40, console.width // 8))),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn("ETA", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[text]}", table_column=cut(ratio=1)),
    )
    return Progress(*columns, console=console, expand=True)
