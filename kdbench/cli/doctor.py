"""``kdbench doctor``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kdbench.cli.app import app
from kdbench.cli.options import JsonFile, json_result

if TYPE_CHECKING:
    from kdbench.machine.checks import Check


@app.command()
def doctor(json_file: JsonFile = None) -> None:
    """Tell which engines run on this machine, in which precisions, and the command that readies the others.

    Example:
      kdbench doctor --json doctor.json
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from kdbench.backends.doctor import diagnose
    from kdbench.machine.checks import NO_GPU
    from kdbench.machine.environment import versions

    with json_result(json_file) as document:
        checks = diagnose()
        document.update(versions=versions(), rows=[asdict(check) for check in checks])
        console = Console(width=None if sys.stdout.isatty() else 100)
        for device in dict.fromkeys(check.device for check in checks if check.device):
            console.print(f"here: {device}", highlight=False, markup=False)
        table = Table("for", "engine", "precisions", "ready", "note, and what makes it ready")
        for check in (check for check in checks if check.fix != NO_GPU):
            told = [part for part in (check.note, check.fix and f"→ {check.fix}") if part]
            table.add_row(
                check.name, named(check), ", ".join(check.precisions) or "–", "yes" if check.ready else "no",
                "\n".join(told).replace("[", r"\["),
            )  # fmt: skip
        console.print(table)
        if lacking := [check for check in checks if check.fix == NO_GPU]:
            notes = [(check.note or "").removeprefix("no NVIDIA GPU here").lstrip("; ") for check in lacking]
            listed = ", ".join(
                named(c) + (f" ({note})" if note else "") for c, note in zip(lacking, notes, strict=True)
            )
            console.print(f"needs an NVIDIA GPU, which is not here: {listed}", highlight=False, markup=False)


def named(check: Check) -> str:
    """The engine and its version."""
    return f"{check.engine} {check.version}" if check.version else check.engine
