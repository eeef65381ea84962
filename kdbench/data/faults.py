"""What is wrong with a dataset's files, so that ``data check`` can name all of it and training stop at the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from kdbench.errors import BadInput

NAMED = 10
"""Files that a line names when many have the same fault."""
DESCRIBE = "`kdbench data describe DIR --output my.toml` writes a dataset file to start from"

_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


class UnknownValues(BadInput):
    """A mask holds what is neither a class nor ignored.

    Attributes:
        unknown: those values, or colours as "#804080".
        seen: all that the mask holds, in order.
    """

    def __init__(self, message: str, unknown: Sequence[int | str], seen: Sequence[int | str]) -> None:
        super().__init__(message)
        self.unknown, self.seen = tuple(unknown), tuple(seen)


class AbsentSplit(BadInput):
    """The folder of a split is not there, or nothing in it: of a split that a dataset need not have, no fault."""


def raise_or_collect(faults: Sequence[str]) -> None:
    """Raise faults that leave something of a split to read; within ``collected`` note them and go on."""
    found = _collected.get()
    if found is not None:
        found += faults
    elif faults:
        raise BadInput("; ".join(faults))


@contextmanager
def collected() -> Iterator[list[str]]:
    """Let datasets open in spite of faults that leave something to read, which come into the list that this yields."""
    faults: list[str] = []
    token = _collected.set(faults)
    try:
        yield faults
    finally:
        _collected.reset(token)


def short(value: object, limit: int = 80) -> str:
    """A value as a message shows it, its end left off where it is long."""
    text = str(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def named(paths: Sequence[Path]) -> str:
    """The names of the first files, and how many more there are."""
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(path.name for path in paths[:NAMED]) + more


def listed(values: Iterable[object]) -> str:
    return short(", ".join(map(str, values)))
