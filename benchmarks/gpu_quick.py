"""All that a few minutes on an NVIDIA GPU can show, in one command: under eight minutes on an H100-class card.

    python -m benchmarks.gpu_bundle --runs runs --data-root data/camvid --out .gpu/bundle      # before, on any machine
    python -m benchmarks.gpu_quick --data-root data/camvid                                    # or: make gpu-quick
    python -m benchmarks.gpu_quick --skip tests,training        # what these name is left out
    python -m benchmarks.gpu_quick --list

Nothing is installed or downloaded, and kdbench itself need not be: a checkout and PyTorch are enough, what else is
there is taken up (``offline_wheels`` brings ONNX Runtime's GPU build along). Every step has a log and a limit, writes
its results as it goes, and costs the others nothing when it fails: being cut off loses only the rest.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu_check import Step, run_step
from kdbench.machine.environment import environment
from kdbench.machine.state import gpu_clocks
from kdbench.runs.files import write_json

LIMIT_SECONDS = 470
COMPILE_SHARE = 0.6
"""Of the latency's seconds, at most, for compiling side by side: less on a machine with many cores."""
LEAST_SECONDS = 15
"""What must be left for a step to be begun."""


@dataclass(frozen=True)
class TimedStep:
    """A step, and the seconds that it may take."""

    step: Step
    seconds: float


def steps(arguments: argparse.Namespace) -> tuple[TimedStep, ...]:
    out = arguments.out

    def script(name: str, *words: str) -> tuple[str, ...]:
        return (sys.executable, "-m", name, *words)

    device = ("--device", arguments.device)
    latency = ("--bundle", str(arguments.bundle), "--out", str(out / "latency.jsonl"))
    extra = ("-p", "no:cacheprovider") if importlib.util.find_spec("pytest") else ()
    return (
        TimedStep(
            Step(
                "latency", "every way to run the network: accuracy, batch 1, and the batch where throughput is flat",
                script("benchmarks.gpu_latency", *latency, *device, "--seconds", str(arguments.latency_seconds),
                       "--compile-seconds", str(COMPILE_SHARE * arguments.latency_seconds), "--batches", "1,256"),
            ),
            arguments.latency_seconds + 45,
        ),
        TimedStep(
            Step(
                "latency-score", "ratios with intervals, floors, goals",
                script("benchmarks.gpu_latency", *latency, "--score", "--json", str(out / "latency.json")),
            ),
            30,
        ),
        TimedStep(
            Step(
                "training", "images per second against the floor of a resident batch",
                script("benchmarks.gpu_training", "--data-root", str(arguments.data_root), *device,
                       "--json", str(out / "training.json")),
            ),
            120,
        ),
        TimedStep(
            Step("tests", "the tests that need a GPU", script("pytest", "-m", "gpu and not slow", "-rA", *extra)), 120
        ),
    )  # fmt: skip


def run(todo: tuple[TimedStep, ...], out: Path, limit: float) -> dict[str, str]:
    """Run the steps and return what came of each; ``steps.json`` has it after every one."""
    started, results = time.monotonic(), dict[str, str]()
    for timed in todo:
        name, left = timed.step.name, limit - (time.monotonic() - started)
        before = time.monotonic()
        if left < LEAST_SECONDS:
            results[name] = f"left out: {left:.0f} s of {limit:.0f} are left"
        else:
            code = run_step(timed.step, out, min(timed.seconds, left))
            result = "done" if code == 0 else f"exit code {code}, see {name}.log"
            results[name] = f"{result} after {time.monotonic() - before:.0f} s"
        print(f"{name}: {results[name]}", flush=True)
        write_json(out / "steps.json", {"schema_version": 1, "steps": results})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path(".gpu/bundle"), help="what benchmarks.gpu_bundle made")
    parser.add_argument("--data-root", type=Path, default=Path("data/camvid"), help="CamVid, for training")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--device", default="cuda", help="cpu tries the steps that need no GPU")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds of all steps together")
    parser.add_argument("--latency-seconds", type=float, default=260)
    parser.add_argument("--only", help="these steps alone, with commas")
    parser.add_argument("--skip", default="", help="steps that are left out, with commas")
    parser.add_argument("--list", action="store_true", help="name the steps and stop")
    arguments = parser.parse_args()
    todo = steps(arguments)
    known = [timed.step.name for timed in todo]
    if arguments.list:
        for timed in todo:
            print(f"{timed.step.name:<16}{timed.step.about}, at most {timed.seconds:.0f} s")
        return
    only, skip = (set(filter(None, text.split(","))) for text in (arguments.only or ",".join(known), arguments.skip))
    if wrong := sorted((only | skip) - set(known)):
        raise SystemExit(f"--only, --skip: got '{wrong[0]}', expected some of {', '.join(known)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu-quick needs an NVIDIA GPU, and this PyTorch sees none (or --device cpu)")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(
        arguments.out / "machine.json",
        {"schema_version": 1, "gpus": gpu_clocks(), "cuda": torch.version.cuda, "environment": environment()},
    )
    results = run(tuple(t for t in todo if t.step.name in only - skip), arguments.out, arguments.limit)
    if any(not result.startswith("done") for result in results.values()):
        raise SystemExit(f"not every step was done: {arguments.out / 'steps.json'}")


if __name__ == "__main__":
    main()
