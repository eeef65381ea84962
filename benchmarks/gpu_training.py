"""Training on a GPU against its floor: samples per second of the baseline, and of three arms with a teacher.

    python -m benchmarks.gpu_training --data-root data/camvid --json results/gpu/training.json

The floor is the very step that kdbench runs (recorded as CUDA graphs, see ``trainers.steps``) on one batch that stays
where it is: no images, no augmentation, no schedule, no logging. What stands between both is what kdbench adds. For
comparison the same steps are also launched one by one, as PyTorch runs them. Epochs of all are timed in turn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.training_speed import Epochs, batches_of, measure, ratios
from kdbench.data import open_dataset
from kdbench.machine.environment import environment
from kdbench.machine.state import gpu_clocks
from kdbench.models.registry import build_model
from kdbench.models.segmentation import SegmentationModel
from kdbench.progress import progress_bar
from kdbench.runs.files import write_json
from kdbench.runs.tree import RunTree
from trainers.arm import Arm
from trainers.batches import TrainingBatches
from trainers.loop import train_epoch
from trainers.recipe import load_recipe
from trainers.steps import GraphSteps, Steps, make_steps
from trainers.train import make_arm

TOGETHER = ("response", "feature", "combined")


def arms_of(
    methods: tuple[str, ...], batches: TrainingBatches, teacher: SegmentationModel | None, folder: Path
) -> list[Arm]:
    tree, classes = RunTree(folder, "speed"), len(batches.classes)
    return [make_arm(m, build_model("student", classes), tree.checkpoint(m), {}, batches, teacher) for m in methods]


def real_epochs(name: str, arms: list[Arm], steps: Steps, batches: TrainingBatches) -> Epochs:
    """Epochs of kdbench's own loop; the same one each time."""

    def run() -> None:
        with progress_bar("", None) as bar:
            train_epoch(arms, steps, batches, 0, bar)

    return Epochs(name, batches.steps_per_epoch, run)


def floor_epochs(name: str, arms: list[Arm], steps: Steps, batches: TrainingBatches) -> Epochs:
    """The same steps on one batch that stays in the device's memory."""
    resident = next(iter(batches.epoch(0)))
    if isinstance(steps, GraphSteps):
        steps.run(arms, resident)

    def run() -> None:
        for _ in range(batches.steps_per_epoch):
            steps.replay(arms) if isinstance(steps, GraphSteps) else steps.run(arms, resident)

    return Epochs(name, batches.steps_per_epoch, run)


def case(
    methods: tuple[str, ...], batches: TrainingBatches, teacher: SegmentationModel | None, blocks: int, folder: Path
) -> dict[str, Any]:
    """Figures of methods trained side by side."""
    kinds = {"as kdbench trains": make_steps, "launched one by one": lambda arms, teacher, _: Steps(arms, teacher)}
    contenders: list[Epochs] = []
    for name, make in kinds.items():
        arms = arms_of(methods, batches, teacher, folder)
        steps = make(arms, teacher, batches)
        contenders.append(real_epochs(name, arms, steps, batches))
        if name == "as kdbench trains":
            recorded = isinstance(steps, GraphSteps)
            floor_arms = arms_of(methods, batches, teacher, folder)
            floor_steps = make(floor_arms, teacher, batches)
            contenders.append(floor_epochs("floor", floor_arms, floor_steps, batches))
    found = measure(contenders, blocks)
    ours, floor, launched = (found[name] for name in ("as kdbench trains", "floor", "launched one by one"))
    milliseconds = {name: sorted(values)[len(values) // 2] for name, values in found.items()}
    return {
        "methods": list(methods),
        "graphs": recorded,
        "images_per_second": {name: 1e3 * batches.batch_size / ms for name, ms in milliseconds.items()},
        "ms_per_step": found,
        "ratios": list(
            ratios([("throughput over the floor's", floor, ours), ("over steps launched one by one", launched, ours)])
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path, default=Path("data/camvid"))
    parser.add_argument("--recipe", default="camvid-360")
    parser.add_argument("--teacher", default="fcn_resnet50")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, help="of the training split; default all")
    parser.add_argument(
        "--cases", type=lambda text: [int(n) for n in text.split(",")], default="0,1", help="0: baseline, 1: three arms"
    )
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu_training needs an NVIDIA GPU, and this PyTorch sees none (or --device cpu)")
    recipe = load_recipe(arguments.recipe, {"images": arguments.images})
    batches = batches_of(open_dataset(arguments.dataset, "train", arguments.data_root), recipe, device)
    before, cases = gpu_clocks(), []
    with tempfile.TemporaryDirectory() as folder:
        for methods in [(("baseline",), TOGETHER)[number] for number in arguments.cases]:
            teacher = None
            if methods == TOGETHER:
                teacher = build_model(arguments.teacher, len(batches.classes)).eval().requires_grad_(False)
                teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            cases.append(case(methods, batches, teacher, arguments.blocks, Path(folder)))
            shown = {name: round(value) for name, value in cases[-1]["images_per_second"].items()}
            print(f"{'+'.join(methods)}: images/s {shown}", flush=True)
            for row in cases[-1]["ratios"]:
                low, high = row["ci95"]
                print(f"  {row['name']}: {row['ratio']:.3f} ({low:.3f}–{high:.3f})", flush=True)
    report = {
        "schema_version": 1, "benchmark": "gpu_training", "teacher": arguments.teacher, "cases": cases,
        "recipe": recipe.model_dump(mode="json"), "gpu_before": before, "gpu_after": gpu_clocks(),
        "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(json.dumps({"benchmark": "gpu_training", "cases": [{k: c[k] for k in ("methods", "ratios")} for c in cases]}))


if __name__ == "__main__":
    main()
