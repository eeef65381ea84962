"""What this machine can run, engine by engine, and the command that makes it run what it cannot.

Every backend is asked for its own rows; what writing exports needs, every format says. Nothing is downloaded, built or
timed.
"""

from __future__ import annotations

from kdbench.backends.declared import BACKENDS
from kdbench.formats import FORMATS, Need
from kdbench.machine.checks import Check, cpu, find_gpu, package_row, try_import


def diagnose() -> list[Check]:
    """All rows, in the order of the table."""
    gpu = find_gpu()
    rows = [row for backend in BACKENDS for row in backend.probe(gpu)]
    return [*dict.fromkeys(rows), *_exporters()]


def _exporters() -> list[Check]:
    """A row for each package that formats need, with their names."""
    formats: dict[Need, list[str]] = {}
    for known in FORMATS:
        for need in known.needs:
            formats.setdefault(need, []).append(known.name)
    return [
        package_row(
            f"export {', '.join(sorted(names))}", need.engine, try_import(need.package, need.package), cpu(),
            need.precisions, None,
        )
        for need, names in formats.items()
    ]  # fmt: skip
