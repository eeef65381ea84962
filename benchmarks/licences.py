"""The licences of what kdbench needs: results/licences.json, from the metadata of what is installed here.

    python -m benchmarks.licences --json results/licences.json   # as `make licences`

Requirements of pyproject.toml, of its extras but ``dev`` and ``mutation``, and what those require in turn. Prints one
table.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kdbench.machine.environment import environment
from kdbench.runs.files import read_toml, write_json

REPOSITORY = Path(__file__).resolve().parent.parent
NOT_RUNTIME = ("dev", "mutation")
"""Extras for those who work on kdbench itself."""
UNKNOWN = ""


def licence(package: metadata.Distribution) -> str:
    """What a package says: an SPDX expression, its classifiers, a line of text, or its licence file; else ``UNKNOWN``.

    The classifiers go before the text, which in some packages is the licence itself, whole.
    """
    about = package.metadata
    if expression := about.get_all("License-Expression"):
        return expression[0]
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License")]
    if said := [name for name in classifiers if name != "OSI Approved"]:
        return " AND ".join(said)
    text = "\n".join(about.get_all("License") or []).strip()
    if text and text.upper() != "UNKNOWN":
        return text.splitlines()[0].removeprefix("OSI Approved :: ")
    for file in package.files or []:
        if re.match(r"LICEN[CS]E", file.name) and ".dist-info" in file.parts[0]:
            return next((line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()), UNKNOWN)
    return UNKNOWN


def runtime_requirements(project: dict[str, Any]) -> list[str]:
    extras = project.get("optional-dependencies", {})
    return [*project["dependencies"], *(line for name in extras if name not in NOT_RUNTIME for line in extras[name])]


def licences(requirements: list[str]) -> tuple[list[dict[str, str]], list[str]]:
    """Name, version and licence of every installed package that these lead to, and the names of those not installed."""
    rows: dict[str, dict[str, str]] = {}
    absent, seen, waiting = set(), set(), [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), ("", *sorted(requirement.extras))
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            absent.add(name)
            continue
        rows[name] = {"name": name, "version": package.version, "licence": licence(package)}
        for line in package.requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return sorted(rows.values(), key=lambda row: row["name"]), sorted(absent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the list to this file")
    arguments = parser.parse_args()
    project = read_toml(REPOSITORY / "pyproject.toml", "pyproject.toml")["project"]
    rows, absent = licences(runtime_requirements(project))
    for row in rows:
        print(f"{row['name']:<36}{row['version']:<16}{row['licence'] or 'unknown'}")
    for count in Counter(row["licence"] or "unknown" for row in rows).most_common():
        print(f"{count[1]:>4} {count[0]}")
    print(f"not installed here: {', '.join(absent) or 'none'}")
    report = {"schema_version": 1, "benchmark": "licences", "rows": rows, "not_installed": absent}
    if arguments.json:
        write_json(arguments.json, {**report, "environment": environment()})


if __name__ == "__main__":
    main()
