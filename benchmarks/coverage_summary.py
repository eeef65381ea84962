"""How much of kdbench the tests run through, by package: what `make coverage` prints and writes.

    python -m coverage json -o coverage-data.json
    python -m benchmarks.coverage_summary coverage-data.json --json results/coverage.json

``share`` counts lines and branches together, as coverage.py does: those that ran, of all there are; ``branch_share``
branches alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path, PurePosixPath
from typing import Any

from kdbench.machine.environment import environment
from kdbench.runs.files import write_json

COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def package_of(path: str) -> str:
    """kdbench's rooms by themselves, everything else by its top folder."""
    parts = PurePosixPath(path.replace("\\", "/")).parts
    return "/".join(parts[:2]) if parts[0] == "kdbench" and len(parts) > 2 else parts[0]


def share(row: dict[str, int]) -> float:
    """Lines and branches that ran, of all; 1 where there is nothing to run."""
    whole = row["num_statements"] + row["num_branches"]
    return (row["covered_lines"] + row["covered_branches"]) / whole if whole else 1.0


def of_branches(row: dict[str, int]) -> float:
    """Branches that ran, of all; 1 where there is none."""
    return row["covered_branches"] / row["num_branches"] if row["num_branches"] else 1.0


def summary(files: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """A row for each package, by name, and one of all.

    Args:
        files: of each file what coverage.py counted.
    """
    packages: dict[str, dict[str, int]] = {}
    for path, counted in files.items():
        for name in (package_of(path), "all"):
            row = packages.setdefault(name, dict.fromkeys(COUNTS, 0))
            for count in COUNTS:
                row[count] += counted[count]
    ordered = [*sorted(packages.keys() - {"all"}), "all"]
    return [
        {
            "package": name, **packages[name], "share": round(share(packages[name]), 4),
            "branch_share": round(of_branches(packages[name]), 4),
        }
        for name in ordered
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what `coverage json` wrote")
    parser.add_argument("--tests", default="the default suite", help="which tests ran, in words")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    data = json.loads(arguments.data.read_text(encoding="utf-8"))
    rows = summary({path: file["summary"] for path, file in data["files"].items()})
    header = f"{'package':<24}{'lines':>8}{'ran':>8}{'branches':>10}{'ran':>8}{'share':>9}{'branches':>10}"
    print(f"{header}   {arguments.tests}")
    for row in rows:
        counts = "{:>8}{:>8}{:>10}{:>8}".format(*(row[count] for count in COUNTS))
        print(f"{row['package']:<24}{counts}{row['share']:>9.1%}{row['branch_share']:>10.1%}")
    report = {
        "schema_version": 1, "benchmark": "coverage", "tests": arguments.tests,
        "coverage": data["meta"]["version"], "rows": rows, "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
