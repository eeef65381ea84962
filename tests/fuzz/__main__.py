"""Fuzz: ``python -m tests.fuzz --cases 5000 --seed 0 --json results/fuzz.json``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from kdbench.machine.environment import environment
from kdbench.runs.files import SCHEMA_VERSION, write_json
from tests.fuzz.corpus import KINDS, make_corpus
from tests.fuzz.drive import BAD, LIMIT_S, Worker, require_sound, run_cases, shares, summary


def command(asked: argparse.Namespace) -> str:
    """What makes the same cases again; where files lay on a machine is nobody's concern."""
    flags = {"cases": asked.cases, "seed": asked.seed, "slow": asked.slow, "minutes": asked.minutes, "kind": asked.kind}
    return "python -m tests.fuzz " + " ".join(f"--{key} {value}" for key, value in flags.items() if value is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", type=float, default=0.3, help="cases of a slow kind, for each of another")
    parser.add_argument("--minutes", type=float, help="stop then, whatever is left")
    parser.add_argument("--kind", help="this kind alone")
    parser.add_argument("--case", type=int, help="this one alone, with all that it said; needs --kind")
    parser.add_argument("--corpus", type=Path, help="the sound files: made there, or taken from there")
    parser.add_argument("--log", type=Path, help="a line of JSON for each case")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as folder:
        corpus = asked.corpus or Path(folder) / "corpus"
        if not corpus.exists():
            corpus.mkdir(parents=True)
            make_corpus(corpus)
        with Worker(corpus, asked.seed) as worker:
            if asked.case is not None:
                print("\n".join(f"{key}: {value}" for key, value in worker.run(asked.kind, asked.case).items()))
                return 0
            require_sound(worker)
            counts = shares(asked.cases, asked.slow) if asked.kind is None else {asked.kind: asked.cases}
            assert asked.kind in (None, *(kind.name for kind in KINDS)), f"--kind: {', '.join(k.name for k in KINDS)}"
            started, results = time.monotonic(), []
            for result in run_cases(worker, counts, asked.minutes and 60 * asked.minutes):
                results.append(result)
                if result["outcome"] in BAD:
                    print(f"{result['outcome']}: --kind '{result['kind']}' --case {result['number']}", file=sys.stderr)
                if asked.log:
                    with asked.log.open("a") as log:
                        log.write(json.dumps(result) + "\n")
    found = summary(results)
    if asked.json:
        about = {"seed": asked.seed, "asked": asked.cases, "limit_s": LIMIT_S, "slow_share": asked.slow,
                 "seconds": round(time.monotonic() - started), "environment": {**environment(), "command": command(asked)}}  # fmt: skip
        write_json(asked.json, {"schema_version": SCHEMA_VERSION, **about, **found})
    print(json.dumps({key: value for key, value in found.items() if key != "kinds"}))
    return int(any(found[outcome] for outcome in BAD))


if __name__ == "__main__":
    sys.exit(main())
