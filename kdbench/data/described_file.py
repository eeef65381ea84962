"""The dataset file that ``kdbench data describe`` writes, and what it prints."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

from kdbench.data.dataset_file import DatasetFile
from kdbench.data.describe import Described
from kdbench.data.faults import listed

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(found: Described, file: Path | None) -> str:
    """The text of a dataset file.

    Args:
        file: where it will be, which its root is relative to; None = at the folder itself.
    """
    root = "." if file is None else os.path.relpath(found.root, file.parent)
    total = max(1, sum(found.pixels.values()))
    lines = [
        "# Written by kdbench data describe: put right what it could not see.",
        *([f"root = {_text(Path(root).as_posix())}"] if root != "." else []),
        f"images = {_text(found.images)}",
        *([f"stem = {_text(found.stem)}"] if found.stem else []),
        f"masks = {_text(found.masks)}",
        *([f"group = {_text(found.group)}  # {found.groups} recordings"] if found.group else []),
    ]
    if found.split:
        lines.append("split = { " + ", ".join(f"{key} = {_value(value)}" for key, value in found.split.items()) + " }")
    lines.append(f"ignore = [{', '.join(_value(value) for value in found.ignore)}]")
    if found.unmasked:
        lines.append(f"unmasked = {_text(next(iter(found.classes)))}  # of {len(found.unmasked)} images without a mask")
    lines += ["", "[classes]"]
    for name, values in found.classes.items():
        share = sum(found.pixels.get(value, 0) for value in values) / total
        shown = _value(values[0]) if len(values) == 1 else f"[{', '.join(map(_value, values))}]"
        lines.append(f"{name if _BARE.fullmatch(name) else _text(name)} = {shown}  # {share:.2%} of the pixels read")
    text = "\n".join(lines) + "\n"
    DatasetFile.model_validate(tomllib.loads(text))
    return text


def report(found: Described) -> list[str]:
    """What was found, for a person."""
    total = max(1, sum(found.pixels.values()))
    sizes = sorted(found.sizes, key=lambda size: -found.sizes[size])
    shares = listed(f"{value} {count / total:.2%}" for value, count in found.pixels.items())
    counts = ", ".join(f"{name} {count}" for name, count in found.counts.items())
    return [
        f"images:  {found.images} ({counts})",
        f"masks:   {found.masks}",
        f"sizes:   {listed(sizes)}",
        f"values:  {shares} (of the pixels of {found.masks_read} masks)",
        f"classes: {listed(found.classes)}",
        f"groups:  {f'{found.groups} by {found.group}' if found.group else 'none seen in names'}",
        *(f"note: {note}" for note in found.notes),
    ]


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _value(value: object) -> str:
    return _text(value) if isinstance(value, str) else str(value)
