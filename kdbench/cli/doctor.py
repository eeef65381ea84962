"""``kdbench doctor``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from kdbench.artifacts import SCHEMA_VERSION, write_json
from kdbench.cli.app import app
from kdbench.errors import BadInput


@app.command()
def doctor(
    json_file: Annotated[str | None, typer.Option("--json", help="A file, or - for stdout.")] = None,
) -> None:
    """Tell which engines run on this machine, in which precisions, and the command that readies the others.

    Example:
      kdbench doctor --json doctor.json
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from kdbench.doctor import diagnose
    from kdbench.environment import versions

    if json_file not in (None, "-") and Path(str(json_file)).is_dir():
        raise BadInput(f"--json: got the folder '{json_file}', expected a file, or - for stdout")
    checks = diagnose()
    document = {"schema_version": SCHEMA_VERSION, "versions": versions(), "rows": [asdict(check) for check in checks]}
    if json_file == "-":
        print(json.dumps(document, allow_nan=False))
        return
    table = Table("for", "engine", "version", "device", "precisions", "ready", "note, and what makes it ready")
    for check in checks:
        told = [part for part in (check.note, check.fix and f"→ {check.fix}") if part]
        table.add_row(
            check.name, check.engine, check.version or "–", check.device or "–", ", ".join(check.precisions) or "–",
            "yes" if check.ready else "no", "\n".join(told).replace("[", r"\["),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if json_file:
        write_json(Path(json_file), document)
        print(f"written: {json_file}")
