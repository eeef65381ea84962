"""Where an export's time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by what they were spent on; time inside a part that is inside another counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs in the block belongs to ``name``."""
        self._book()
        self._running.append(name)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def _book(self) -> None:
        """Give the time since the last change to the part that ran."""
        now = time.perf_counter()
        if self._running:
            name = self._running[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def told(self) -> str:
        """ "48 s: 20 proof, 12 int8, …": parts of a second or more, the longest first."""
        parts = sorted(self.seconds.items(), key=lambda entry: -entry[1])
        listed = ", ".join(f"{seconds:.0f} {name}" for name, seconds in parts if seconds >= 0.5)
        total = f"{sum(self.seconds.values()):.0f} s"
        return f"{total}: {listed}" if listed else total
