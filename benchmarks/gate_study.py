"""How often the latency gate is right, live and on its own recordings, beside the rules that people use instead.

    python -m benchmarks.gate_study prepare                 # exports two models, builds slower twins, calibrates them
    python -m benchmarks.gate_study run --minutes 60        # live runs, as many as fit; goes on where it stopped
    python -m benchmarks.gate_study run --minutes 60 --loaded
    python -m benchmarks.gate_study score --json results/gate-study.json

A run is one verdict of ``kdbench regress``: identical files (A/A), or a candidate with extra real layers that make it
3%, 5% or 10% slower, or a baseline with such layers (the candidate is 5% faster). Which one comes next is shuffled
with a fixed seed; every recording is kept in results/gate-study/. ``--loaded`` has another process work in bursts on
the same machine. ``score`` judges the same samples by other rules too, and replays windows of recorded A/A blocks,
freshly labelled, thousands of times.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.gate_models import prepare
from benchmarks.gate_runs import SCENARIOS, run
from benchmarks.gate_scores import score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "run", "score"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--loaded", action="store_true", help="with a neighbour that works in bursts")
    parser.add_argument("--only", choices=SCENARIOS, help="run this scenario alone: rare errors take many runs to see")
    parser.add_argument("--budget", type=float, default=240, help="seconds for a verdict")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    arguments = parser.parse_args()
    if arguments.step == "prepare":
        prepare()
    elif arguments.step == "run":
        run(arguments.minutes, arguments.loaded, arguments.only, arguments.budget)
    else:
        score(arguments.budget, arguments.json)


if __name__ == "__main__":
    main()
