"""Is this revision slower than another at what was there before: training the built-in student, and ``evaluate``?

    python -m benchmarks.revision_speed --base REVISION --data-root data/camvid --json results/revision-speed.json

Each revision runs in a process of its own, from its own source tree (the other one in a git worktree). Slices alternate
in random order, with everyone else suspended, so that the machine's drift cancels in their ratio. Prints one line per
workload with the median ratio over blocks and its 95% interval; above 1 this revision is slower.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

CHECKOUT = Path(__file__).resolve().parent.parent
IMAGES, STEPS, SCORED = 64, 4, 48
"""Training images in memory, steps in a slice of training, images in a slice of evaluation."""


def serve(data_root: Path, folder: Path) -> None:
    """Time slices of the workloads that stdin names, by the kdbench on the path: a line of seconds for each."""
    import torch

    from kdbench.backends.torch_eager import TorchBackend
    from kdbench.comparison.evaluate import evaluate
    from kdbench.data import open_dataset
    from kdbench.models.registry import build_model
    from kdbench.runs.tree import RunTree
    from trainers.batches import TrainingBatches
    from trainers.images import TrainingImages
    from trainers.recipe import load_recipe
    from trainers.steps import make_steps
    from trainers.train import make_arm

    recipe = load_recipe("camvid", {"precision": "fp32", "images": IMAGES, "batch_size": 8})
    train, validation = (open_dataset("camvid", split, data_root) for split in ("train", "val"))
    device = torch.device("cpu")
    batches = TrainingBatches(TrainingImages(train, recipe.view_size, recipe.images, device), recipe)
    teacher = build_model("fpn_resnet18", len(train.classes)).eval().requires_grad_(False)
    tree = RunTree(folder, "speed")
    arms = [
        make_arm(method, build_model("student", len(train.classes)), tree.checkpoint(method), {}, batches, teacher)
        for method in ("baseline", "response", "feature")
    ]
    steps = make_steps(arms, teacher, batches)
    some = [batch for batch, _ in zip(batches.epoch(0), range(STEPS), strict=False)]
    engine = TorchBackend(arms[0].objective.model, output="mask", size=recipe.size)
    dataset = First(validation, SCORED)

    def training() -> None:
        for arm in arms:
            arm.objective.train()
        for batch in some:
            steps.run(arms, batch)
        steps.settle()

    def batching() -> None:
        for _ in zip(batches.epoch(1), range(STEPS), strict=False):
            pass

    def scoring() -> None:
        evaluate(engine, dataset)  # type: ignore[arg-type]

    work: dict[str, Callable[[], None]] = {"training": training, "batches": batching, "evaluate": scoring}
    for run in work.values():
        run()
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        work[line.strip()]()
        print(time.perf_counter() - started, flush=True)


class First:
    """The first images of a split."""

    def __init__(self, dataset: Any, count: int) -> None:
        self._dataset, self._count = dataset, count
        self.name, self.split = dataset.name, dataset.split
        self.classes, self.palette = dataset.classes, dataset.palette

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        return self._dataset[index]


class Revision:
    """A process that times one workload at one revision; see ``benchmarks.interleaved``."""

    def __init__(self, name: str, process: subprocess.Popen[str], workload: str) -> None:
        self.name, self._process, self._workload = name, process, workload
        self._handle = psutil.Process(process.pid)

    def slice_ms(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._handle.resume()
        self._process.stdin.write(f"{self._workload}\n")
        self._process.stdin.flush()
        seconds = float(self._process.stdout.readline())
        self._handle.suspend()
        return 1e3 * seconds


def started(checkout: Path, data_root: Path, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "--serve", str(folder), "--data-root", str(data_root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**environment_of(), "PYTHONPATH": str(checkout)},
    )  # fmt: skip
    assert process.stdout is not None
    while (line := process.stdout.readline()).strip() != "ready":
        if not line:
            raise SystemExit(f"{checkout}: the process ended before it was ready")
    psutil.Process(process.pid).suspend()
    return process


def environment_of() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}


def measure(arguments: argparse.Namespace, base: Path, folder: Path) -> dict[str, Any]:
    from benchmarks.interleaved import alternate, ratio_with_interval

    data_root = arguments.data_root.resolve()
    sides = {"now": started(CHECKOUT, data_root, folder / "a"), "base": started(base, data_root, folder / "b")}
    found: dict[str, Any] = {}
    for workload in ("training", "batches", "evaluate"):
        contenders = [Revision(name, process, workload) for name, process in sides.items()]
        blocks = alternate(contenders, arguments.blocks)
        ratio, low, high = ratio_with_interval(blocks["now"], blocks["base"])
        found[workload] = {"ratio": ratio, "ci95": [low, high], "blocks": arguments.blocks}
        print(f"{workload}: {ratio:.3f} times as long as at {arguments.base} (95% {low:.3f}–{high:.3f})", flush=True)
    for process in sides.values():
        psutil.Process(process.pid).resume()
        process.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="HEAD~1", help="the revision to compare with")
    parser.add_argument("--data-root", type=Path, default=Path("data/camvid"))
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--json", type=Path, default=Path("results/revision-speed.json"))
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.data_root, arguments.serve)
        return
    from kdbench.machine.environment import environment
    from kdbench.runs.files import write_json

    with tempfile.TemporaryDirectory(prefix="kdbench-speed-") as folder:
        base = Path(folder) / "base"
        git = ["git", "-C", str(CHECKOUT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(base), arguments.base], check=True, capture_output=True)
        try:
            found = measure(arguments, base, Path(folder))
        finally:
            subprocess.run([*git, "remove", "--force", str(base)], check=True)
    report = {"schema_version": 1, "environment": environment(), "base": arguments.base, "workloads": found}
    write_json(arguments.json, report)
    print(json.dumps({"written": str(arguments.json), **found}))


if __name__ == "__main__":
    main()
