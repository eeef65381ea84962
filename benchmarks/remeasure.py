"""Measure again what is stale: the command that each such results file records is run, one after the other.

    python -m benchmarks.remeasure                                # everything that `make check` names
    python -m benchmarks.remeasure startup-time.json demo.json    # these, stale or not

It takes hours, and latencies want a machine on which nothing else runs. A file whose command needs what is not here (a
study's trainings, a GPU) is left as it was, with the reason; results/README.md says how to make it.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stale_results import REPOSITORY, RESULTS, NoHistoryError, stale
from kdbench.runs.files import read_json

GPU = "gpu/"
"""Results of a machine with an NVIDIA GPU: `make gpu-check` measures them."""


@dataclass(frozen=True)
class Outcome:
    """Of one results file.

    Attributes:
        measured: whether it is new now.
        said: seconds that it took, or why it is as it was.
    """

    measured: bool
    said: str


def command_of(root: Path, name: str) -> list[str] | None:
    """What makes this file, as it recorded it; None where that is not a whole command that writes it."""
    recorded = read_json(root / "results" / name, "the command in results/README.md").get("environment", {})
    command = recorded.get("command", "")
    words = shlex.split(command)
    if f"results/{name}" not in words or ";" in command:
        return None
    if words[:2] == ["python", "-m"]:
        return [sys.executable, *words[1:]]
    return [sys.executable, "-m", *words] if words[0] == "kdbench" else None


def measure(root: Path, name: str) -> Outcome:
    """Run its command; a failure leaves the file as it was."""
    if name.startswith(GPU):
        return Outcome(False, "of a GPU: make gpu-check")
    command = command_of(root, name)
    if command is None:
        return Outcome(False, "what it recorded is no whole command: see results/README.md")
    file = root / "results" / name
    before = file.read_bytes()
    print(f"== {name}: {shlex.join(command[1:])}", flush=True)
    started = time.monotonic()
    done = subprocess.run(command, cwd=root)
    seconds = time.monotonic() - started
    if done.returncode != 0:
        file.write_bytes(before)
        return Outcome(False, f"its command ended with {done.returncode} after {seconds:.0f} s")
    if file.read_bytes() == before:
        return Outcome(False, f"its command did not write it ({seconds:.0f} s)")
    return Outcome(True, f"measured in {seconds:.0f} s")


def remeasure(root: Path, names: Iterable[str]) -> bool:
    """Measure these again and say what became of each; whether all are new now."""
    outcomes = {name: measure(root, name) for name in names}
    for name, outcome in outcomes.items():
        print(f"results/{name}: {outcome.said}")
    return all(outcome.measured for outcome in outcomes.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="files below results/; without any, those that are stale")
    names = parser.parse_args().names
    if wrong := [name for name in names if name not in RESULTS]:
        raise SystemExit(f"remeasure: got '{wrong[0]}', expected some of {', '.join(RESULTS)}")
    try:
        names = names or list(stale(REPOSITORY, RESULTS))
    except NoHistoryError as why:
        raise SystemExit(f"which results are stale cannot be told: {why}: name the files") from None
    sys.exit(0 if remeasure(REPOSITORY, names) else 1)


if __name__ == "__main__":
    main()
