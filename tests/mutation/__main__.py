"""Mutants: ``python -m tests.mutation --json results/mutation.json``. It goes on where it was stopped.

Verdicts are kept in ``.mutation/``. A mutant that was killed, or never ended, is not run again while the module is as it was; one that
survived is run again when its tests changed. ``--fresh`` forgets them all.
"""

from __future__ import annotations

import os

# One thread: forked processes inherit none of a pool's, and sums are the same in all of them.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

from tests.mutation.drive import REPOSITORY, Found, run_mutants
from tests.mutation.mutants import Mutant, mutants_of

MODULES: dict[str, tuple[str, ...]] = {
    "trainers/losses.py": ("losses", "losses_published"),
    "trainers/methods.py": ("objective",),
    "kdbench/models/pixels.py": ("pixels",),
    "kdbench/methods/base.py": ("method_cards",),
    "kdbench/comparison/metrics.py": ("metrics",),
    "kdbench/comparison/seed_statistics.py": ("compare_statistics",),
    "kdbench/comparison/evaluate.py": ("evaluate",),
    "kdbench/comparison/parity.py": ("parity_values",),
    "kdbench/regress/rule.py": ("regress_rule",),
    "kdbench/regress/signed_rank.py": ("regress_rule",),
    "kdbench/runs/files.py": ("atomic_files", "files", "seal"),
}
"""Module → its test files, without ``test_`` and ``.py``."""
WANTED = 0.9
"""Share of a module's mutants that tests must notice."""
STATE = REPOSITORY / ".mutation"


def digest_of(tests: tuple[str, ...]) -> str:
    return hashlib.sha256(b"".join((REPOSITORY / f"tests/test_{name}.py").read_bytes() for name in tests)).hexdigest()


def read_log(log: Path) -> dict[str, dict[str, Any]]:
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return {line["key"]: line for line in map(json.loads, lines)}


def judge_module(module: str, fresh: bool) -> list[tuple[Mutant, dict[str, Any]]]:
    """The verdict on each of a module's mutants: ``{"verdict": "killed" | "survived" | "timeout", "by": a test}``."""
    tests, log = MODULES[module], STATE / f"{module.replace('/', '.')}.jsonl"
    if fresh:
        log.unlink(missing_ok=True)
    known, digest = read_log(log), digest_of(tests)
    mutants = list(mutants_of(REPOSITORY / module))
    due = [
        one for one in mutants
        if one.key not in known or (known[one.key]["verdict"] == "survived" and known[one.key]["tests"] != digest)
    ]  # fmt: skip

    def note(mutant: Mutant, found: Found) -> None:
        verdict = "timeout" if found is None else "killed" if found["failed"] else "survived"
        line = {"key": mutant.key, "verdict": verdict, "by": found and found["failed"], "tests": digest}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    if due:
        STATE.mkdir(exist_ok=True)
        run_mutants(Path(module), tests, due, note)
        known = read_log(log)
    return [(one, known[one.key]) for one in mutants]


def judgements(results: Path) -> dict[tuple[str, str, str], str]:
    """What people said of survivors, in the results of before."""
    if not results.exists():
        return {}
    before = json.loads(results.read_text(encoding="utf-8"))
    return {(one["module"], one["function"], one["diff"]): one["judgement"] for one in before["survivors"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", choices=MODULES, help="this one alone, which writes no results")
    parser.add_argument("--fresh", action="store_true", help="forget the verdicts of before")
    parser.add_argument("--list", action="store_true", help="print the mutants and run none")
    parser.add_argument("--json", type=Path, help="results; what they say of survivors is kept")
    asked = parser.parse_args()
    if asked.list:
        for module in asked.module or MODULES:
            for mutant in mutants_of(REPOSITORY / module):
                print(f"{module}:{mutant.line}: {mutant.diff}")
        return 0
    said = judgements(asked.json) if asked.json else {}
    modules, survivors = {}, []
    for module in asked.module or MODULES:
        judged = judge_module(module, asked.fresh)
        count = {verdict: sum(found["verdict"] == verdict for _, found in judged)
                 for verdict in ("killed", "survived", "timeout")}  # fmt: skip
        noticed = round((count["killed"] + count["timeout"]) / len(judged), 4)
        modules[module] = {
            "tests": [f"tests/test_{name}.py" for name in MODULES[module]], "mutants": len(judged),
            "killed": count["killed"], "timeouts": count["timeout"], "survived": count["survived"], "noticed": noticed,
        }  # fmt: skip
        print(f"{module}: {100 * noticed:.1f}% of {len(judged)} mutants noticed", file=sys.stderr, flush=True)
        for mutant, found in judged:
            if found["verdict"] == "survived":
                where = {"module": module, "function": mutant.function, "line": mutant.line, "diff": mutant.diff}
                print(f"survived: {module}:{mutant.line}: {mutant.diff}", file=sys.stderr, flush=True)
                survivors.append({**where, "judgement": said.get((module, mutant.function, mutant.diff), "")})
    unjudged = [one for one in survivors if not one["judgement"]]
    poor = [module for module, found in modules.items() if found["noticed"] < WANTED]
    if asked.json and not asked.module:
        from kdbench.machine.environment import environment
        from kdbench.runs.files import SCHEMA_VERSION, write_json

        about = {**environment(), "command": "python -m tests.mutation --json results/mutation.json"}
        about["versions"]["mutmut"] = importlib.metadata.version("mutmut")
        write_json(asked.json, {
            "schema_version": SCHEMA_VERSION, "environment": about,
            "left_out": "tests that train or export a network first; annotations, type aliases, decorators, docstrings",
            "modules": modules, "survivors": survivors,
        })  # fmt: skip
    print(json.dumps({"mutants": sum(found["mutants"] for found in modules.values()), "survived": len(survivors),
                      "unjudged": len(unjudged), "under_the_wanted_share": poor}))  # fmt: skip
    return int(bool(unjudged or poor))


if __name__ == "__main__":
    sys.exit(main())
