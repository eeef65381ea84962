"""``kdbench doctor``."""

from __future__ import annotations

import sys

from kdbench.cli.app import app
from kdbench.cli.options import JsonFile, json_result


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
    from kdbench.machine.environment import versions

    with json_result(json_file) as document:
        checks = diagnose()
        document.update(versions=versions(), rows=[asdict(check) for check in checks])
        table = Table("for", "engine", "version", "device", "precisions", "ready", "note, and what makes it ready")
        for check in checks:
            told = [part for part in (check.note, check.fix and f"→ {check.fix}") if part]
            table.add_row(
                check.name, check.engine, check.version or "–", check.device or "–", ", ".join(check.precisions) or "–",
                "yes" if check.ready else "no", "\n".join(told).replace("[", r"\["),
            )  # fmt: skip
        Console(width=None if sys.stdout.isatty() else 160).print(table)
