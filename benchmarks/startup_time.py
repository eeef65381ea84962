"""Wall-clock of ``import kdbench`` and ``kdbench --help`` as whole processes, on a warm cache.

    python -m benchmarks.startup_time

Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kdbench.machine.environment import environment
from kdbench.runs.files import write_json

COMMANDS = {
    "import kdbench": ["-c", "import kdbench"],
    "kdbench --help": ["-m", "kdbench", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, command in COMMANDS.items():
        seconds = []
        for _ in range(arguments.runs + 1):
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            seconds.append(time.perf_counter() - started)
        rows.append({"command": name, "seconds": seconds[1:]})  # the first fills the cache
    print(f"{'command':<20}{'median s':>10}{'min':>8}{'max':>8}   {arguments.runs} runs")
    for row in rows:
        s = row["seconds"]
        print(f"{row['command']:<20}{statistics.median(s):>10.3f}{min(s):>8.3f}{max(s):>8.3f}")
    report = {"schema_version": 1, "benchmark": "startup_time", "rows": rows, "environment": environment()}
    if arguments.json:
        write_json(arguments.json, report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
