"""Everything that is to be measured on an NVIDIA GPU, into one folder, in steps of at most 8 minutes.

    make gpu-check DATA_ROOT=data/camvid                    # every step, to the end
    python -m benchmarks.gpu_check --data-root data/camvid --step students      # one step; again where it says so
    python -m benchmarks.gpu_check --list

A step that needs longer (the trainings) stops after 7.5 minutes, as Ctrl-C would stop it, and goes on when it is run
again. Each writes its log to ``<out>/<step>.log``; what it measured is named in ``steps``.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

LIMIT_SECONDS, GRACE_SECONDS = 450, 25
METHODS = "baseline,response,feature,combined,dist"
UNFINISHED, TIMED_OUT = 75, 124
"""Exit codes: a step that must be run again (EX_TEMPFAIL of sysexits.h); one that the limit stopped (as timeout's)."""


@dataclass(frozen=True)
class Step:
    """One command; a ``resumable`` one is stopped at the limit and goes on in the next run."""

    name: str
    about: str
    command: tuple[str, ...]
    resumable: bool = False


def steps(arguments: argparse.Namespace) -> tuple[Step, ...]:
    out, runs = arguments.out, arguments.runs
    data = ("--dataset", arguments.dataset, *(("--data-root", str(arguments.data_root)) if arguments.data_root else ()))
    tree = ("--runs", str(runs), "--dataset", arguments.dataset)
    device = ("--device", arguments.device)
    training = ("--runs", str(runs), *data, "--recipe", arguments.recipe, *device, "--resume")
    bundle, journal = f"{runs}-bundle", str(out / "latency.jsonl")
    precisions = ("--precision", "fp32,fp16")
    comparison = str(out / f"{arguments.dataset}-gpu.json")

    def kdbench(*words: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "kdbench", *words)

    def script(name: str, *words: str) -> tuple[str, ...]:
        return (sys.executable, "-m", f"benchmarks.{name}", *words)

    return (
        Step("environment", "engines, versions, the card", kdbench("doctor", "--json", str(out / "doctor.json"))),
        Step("tests", "the tests that need a GPU", (sys.executable, "-m", "pytest", "-m", "gpu", "-rA")),
        Step("teacher", "train the teacher", kdbench("train", "--method", "teacher", *training), resumable=True),
        Step(
            "students", "train every arm, three seeds",
            kdbench("train", "--method", METHODS, "--seeds", arguments.seeds, *training), resumable=True,
        ),
        Step(
            "export", "ONNX files and engines, fp32 and fp16",
            kdbench("export", "--method", METHODS, "--format", "onnx,trt", *precisions, *tree),
        ),
        Step(
            "compare", "accuracy and latency of every method through every backend",
            kdbench("compare", "--method", METHODS, "--backend", "torch,onnx,trt", *precisions, *device, *tree,
                    "--json", comparison),
        ),
        Step(
            "bundle", "the baseline's files at 512 x 512 and at 360 x 480",
            script("gpu_bundle", "--runs", str(runs), *data, "--method", "baseline", "--out", bundle),
        ),
        Step(
            "latency", "every way to run it, batch 1 and larger ones",
            script("gpu_latency", "--bundle", bundle, "--seconds", "360", "--out", journal),
        ),
        Step(
            "latency-score", "floors, ratios and intervals",
            script("gpu_latency", "--score", "--out", journal, "--json", str(out / "latency.json")),
        ),
        Step(
            "training-speed", "samples per second against the floor",
            script("training_speed", *data, "--recipe", arguments.recipe, *device, "--teachers", "fcn_resnet50",
                   "--teacher-images", "128", "--blocks", "5", "--json", str(out / "training-speed.json")),
        ),
        Step(
            "report", "curves, table and pictures on one page",
            kdbench("report", *tree, "--results", comparison, "--output", str(out / "report.html")),
        ),
    )  # fmt: skip


def run_step(step: Step, out: Path, limit_s: float) -> int:
    """The command's exit code; ``UNFINISHED`` for a resumable one that the limit stopped."""
    path = out / f"{step.name}.log"
    with open(path, "a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(step.command)}\n")
        log.flush()
        process = subprocess.Popen(step.command, stdout=log, stderr=subprocess.STDOUT)
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return UNFINISHED if step.resumable else TIMED_OUT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu-check"))
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--recipe", default="camvid-360")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--device", default="cuda", help="cpu tries the steps that need no GPU")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds of a step")
    parser.add_argument("--step", help="this one alone")
    parser.add_argument("--list", action="store_true", help="name the steps and stop")
    arguments = parser.parse_args()
    todo = steps(arguments)
    if arguments.list:
        for step in todo:
            print(f"{step.name:<16}{step.about}{' (may have to be run again)' if step.resumable else ''}")
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu-check needs an NVIDIA GPU, and this PyTorch sees none")
    if arguments.step:
        todo = tuple(step for step in todo if step.name == arguments.step)
        if not todo:
            raise SystemExit(f"--step: got '{arguments.step}', expected one that --list names")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for step in todo:
        code = UNFINISHED
        while code == UNFINISHED:
            started = time.monotonic()
            code = run_step(step, arguments.out, arguments.limit)
            result = {0: "done", UNFINISHED: "to be run again"}.get(code, f"failed with exit code {code}")
            print(f"{step.name}: {result} after {time.monotonic() - started:.0f} s", flush=True)
            if arguments.step:
                break
        if code:
            raise SystemExit(code if code == UNFINISHED else f"see {arguments.out / step.name}.log")


if __name__ == "__main__":
    main()
