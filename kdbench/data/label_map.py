"""Which class a value or a colour of a mask is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdbench.data.decoding import read_colours, read_mask
from kdbench.data.faults import UnknownValues, listed
from kdbench.data.labels import IGNORE

_HEX = re.compile("#[0-9a-fA-F]{6}")
_GREY = 0x010101


class LabelMap:
    """Mask values to labels.

    Args:
        classes: their names.
        meaning: label (class id, or 255 for ignore) of each value; values are 0 to 255, or colours as
            65536 · red + 256 · green + blue.
        by_colour: masks are read by colour: grey n is n times 0x010101 then.
    """

    def __init__(self, classes: Sequence[str], meaning: Mapping[int, int], by_colour: bool = False) -> None:
        self.classes, self.by_colour = tuple(classes), by_colour
        white = 255 * _GREY if by_colour else 255
        self.meaning = {white: IGNORE, **meaning}  # unless a class takes it
        if not by_colour:
            self._table = np.full(256, -1, dtype=np.int16)
            self._table[list(self.meaning)] = list(self.meaning.values())
            return
        # Pages of the 32 MB that no colour of a mask lies in are never touched, nor taken.
        self._table = np.zeros(1 << 24, dtype=np.int16)
        self._table[list(self.meaning)] = [label + 1 for label in self.meaning.values()]

    def __repr__(self) -> str:
        """All that it depends on: what is kept of data is kept by it (``kdbench.data.remembered``)."""
        return f"LabelMap({self.classes}, {self.meaning}, {self.by_colour})"

    @staticmethod
    def of_ids(classes: Sequence[str], ignored: Sequence[int] = ()) -> LabelMap:
        """Values are class ids, from 0."""
        return LabelMap(classes, {**{i: i for i in range(len(classes))}, **dict.fromkeys(ignored, IGNORE)})

    def read(self, path: Path) -> NDArray[np.integer]:
        """A mask file as values, H x W."""
        return read_colours(path) if self.by_colour else read_mask(path)

    def labels(self, values: NDArray[np.integer], path: Path) -> NDArray[np.uint8]:
        """H x W labels of the values of a mask.

        Args:
            path: of the mask, for the error.

        Raises:
            UnknownValues: some are neither a class nor ignored.
        """
        found = self._table[values]
        if self.by_colour:
            found -= 1
        if found.size and found.min() < 0:
            unknown, seen = (self.shown(np.unique(part).tolist()) for part in (values[found < 0], values))
            raise UnknownValues(
                f"mask '{path}' holds the values [{listed(unknown)}], expected {self.expected}: "
                "mend the mask or list its classes",
                unknown,
                seen,
            )
        return found.astype(np.uint8)

    @property
    def expected(self) -> str:
        """What masks may hold, for errors."""
        known = sorted(value for value, label in self.meaning.items() if label != IGNORE)
        void = sorted(value for value, label in self.meaning.items() if label == IGNORE)
        count = f"({len(self.classes)} classes)"
        run = f"{known[0]} to {known[-1]}"
        # By their number: a list of all between two colours would have millions.
        values = run if known[-1] - known[0] == len(known) - 1 else listed(self.shown(known))
        return f"{values} {count}" + (f" or {listed(self.shown(void))} for ignore" if void else "")

    def shown(self, values: Sequence[int]) -> list[int | str]:
        return [hex_colour(value) for value in values] if self.by_colour else list(values)


def hex_colour(value: int) -> str:
    """65536 · red + 256 · green + blue as "#rrggbb"."""
    return f"#{value:06x}"


def parse_colour(text: str) -> int | None:
    """ "#804080" or "128 64 128" (or with commas) as 65536 · red + 256 · green + blue; None of anything else."""
    if _HEX.fullmatch(text):
        return int(text[1:], 16)
    parts = text.replace(",", " ").split()
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) < 256 for part in parts):
        return None
    red, green, blue = map(int, parts)
    return red * 65536 + green * 256 + blue


def channels(value: int) -> tuple[int, int, int]:
    return value >> 16, value >> 8 & 255, value & 255
