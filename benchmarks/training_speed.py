"""What a training epoch costs: over its floor, over torchvision's reference way, and with a teacher.

    python -m benchmarks.training_speed --data-root data/camvid --json results/training-speed.json

All are epochs of the same student on the same images at the same size and batch size, in one process, in turn:

- kdbench's own loop: real images, augmentation, logging.
- The floor: the same forward, cross-entropy, backward and optimizer step on one random batch that stays in memory.
- torchvision's references/segmentation/train.py (v0.24) in short: a DataLoader whose workers decode, resize, flip and
  crop each image with PIL, images in N x C x H x W, logits upsampled to the image's size, cross-entropy on them. Its
  workers are tried (2) and left out (0), and the faster one counts.
- Distilled arms, each alone and the guide's three side by side, which share a teacher's pass and a batch.

Ratios are of epochs that lie close together in time (``interleaved``). Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.interleaved import alternate, ratio_with_interval
from kdbench.data import SegmentationDataset, open_dataset
from kdbench.data.labels import IGNORE
from kdbench.data.normalisation import MEAN, STD
from kdbench.data.preprocessing import Size
from kdbench.machine.environment import environment
from kdbench.models.registry import build_model
from kdbench.models.segmentation import SegmentationModel
from kdbench.progress import progress_bar
from kdbench.runs.files import write_json
from kdbench.runs.tree import RunTree
from kdbench.torchvision_compat import torchvision  # noqa: F401  before its transforms, which it makes importable
from trainers.arm import Arm, make_optimizer
from trainers.batches import TrainingBatches
from trainers.images import TrainingImages
from trainers.loop import train_epoch
from trainers.losses import cross_entropy
from trainers.recipe import Recipe, load_recipe
from trainers.steps import make_steps
from trainers.train import make_arm

from torchvision.transforms import v2  # isort: skip

TOGETHER = ("response", "feature", "combined")
"""The guide's three methods."""


@dataclass
class Epochs:
    """One way to train; ``run`` trains an epoch of ``steps`` steps."""

    name: str
    steps: int
    run: Callable[[], None]

    def slice_ms(self) -> float:
        """Milliseconds of a step, mean over an epoch."""
        started = time.perf_counter()
        self.run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (time.perf_counter() - started) * 1e3 / self.steps


def ours(
    methods: tuple[str, ...], batches: TrainingBatches, classes: int, teacher: SegmentationModel | None, folder: Path
) -> Epochs:
    """kdbench's loop; the same epoch each time, from the step after the last."""
    tree = RunTree(folder, "speed")
    arms: list[Arm] = [
        make_arm(m, build_model("student", classes), tree.checkpoint(m), {}, batches, teacher) for m in methods
    ]
    steps = make_steps(arms, teacher, batches)

    def run() -> None:
        with progress_bar("", None) as bar:
            train_epoch(arms, steps, batches, 0, bar)

    return Epochs("+".join(methods), batches.steps_per_epoch, run)


def batches_of(dataset: SegmentationDataset, recipe: Recipe, device: torch.device) -> TrainingBatches:
    return TrainingBatches(TrainingImages(dataset, recipe.view_size, recipe.images, device), recipe)


def floor(batches: TrainingBatches, classes: int) -> Epochs:
    recipe = batches.recipe
    device = batches.device
    model = build_model("student", classes).train()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, recipe)
    weights = None if batches.class_weights is None else batches.class_weights.to(device)
    images = torch.randn(recipe.batch_size, 3, *recipe.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (recipe.batch_size, *recipe.size), device=device)

    def run() -> None:
        for _ in range(batches.steps_per_epoch):
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                taps = model.taps(images)
            loss = cross_entropy(taps.logits, labels, weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return Epochs("floor", batches.steps_per_epoch, run)


class ReferenceImages(Dataset[tuple[Tensor, Tensor]]):
    """Images as torchvision's SegmentationPresetTrain prepares them: decoded and resized by PIL for every use."""

    def __init__(self, dataset: SegmentationDataset, recipe: Recipe, count: int) -> None:
        height, width = recipe.size
        self.dataset, self.count, self.scale = dataset, count, (recipe.scale_min, recipe.scale_max)
        self.size: Size = (height, width)
        self.flip_and_crop = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5),
                v2.RandomCrop((height, width), pad_if_needed=True, fill={Image.Image: 0, "others": IGNORE}),
            ]
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors

        sample = self.dataset[index]
        low, high = self.scale
        zoom = low + (high - low) * torch.rand(()).item()
        size = [max(1, round(side * zoom)) for side in self.size]
        image = v2.functional.resize(Image.fromarray(sample.image), size)
        label = v2.functional.resize(Image.fromarray(sample.label), size, v2.InterpolationMode.NEAREST)
        image, mask = self.flip_and_crop(image, tv_tensors.Mask(v2.functional.pil_to_tensor(label)[0]))
        pixels = v2.functional.to_dtype(v2.functional.pil_to_tensor(image), torch.float32, scale=True)
        return v2.functional.normalize(pixels, list(MEAN), list(STD)), mask.as_subclass(torch.Tensor).long()


def reference(batches: TrainingBatches, dataset: SegmentationDataset, workers: int) -> Epochs:
    recipe, classes = batches.recipe, len(dataset.classes)
    images = ReferenceImages(dataset, recipe, batches.steps_per_epoch * recipe.batch_size)
    loader: DataLoader[Any] = DataLoader(
        images, recipe.batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )
    model = build_model("student", classes).train().to(batches.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    criterion = nn.CrossEntropyLoss(ignore_index=IGNORE)

    def run() -> None:
        for pixels, labels in ((p.to(batches.device), target.to(batches.device)) for p, target in loader):
            logits = F.interpolate(model.taps(pixels).logits, size=labels.shape[1:], mode="bilinear")
            loss = criterion(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            loss.item()  # its metric logger does

    return Epochs(f"torchvision's reference, {workers} workers", batches.steps_per_epoch, run)


def measure(contenders: list[Epochs], blocks: int) -> dict[str, list[float]]:
    """Milliseconds per step, by block; see ``alternate``."""
    for contender in contenders:
        contender.slice_ms()  # the first epoch warms up
    return alternate(contenders, blocks)


def ratios(pairs: list[tuple[str, list[float], list[float]]]) -> Iterator[dict[str, Any]]:
    for name, numerator, denominator in pairs:
        ratio, low, high = ratio_with_interval(numerator, denominator)
        yield {"name": name, "ratio": ratio, "ci95": [low, high]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path, default=Path("data/camvid"))
    parser.add_argument("--recipe", default="camvid")
    parser.add_argument("--teachers", default="fpn_resnet18,fcn_resnet50")
    parser.add_argument("--teacher-images", type=int, default=64, help="images of an epoch with a teacher")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    dataset = open_dataset(arguments.dataset, "train", arguments.data_root)
    classes = len(dataset.classes)
    recipe = load_recipe(arguments.recipe, {})
    rows: list[dict[str, Any]] = []
    raw: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        batches = batches_of(dataset, recipe, device)
        baseline = ours(("baseline",), batches, classes, None, Path(folder))
        references = [reference(batches, dataset, workers) for workers in (0, 2)]
        found = raw["throughput"] = measure([floor(batches, classes), baseline, *references], arguments.blocks)
        fastest = min(references, key=lambda r: statistics.median(found[r.name])).name
        rows += ratios(
            [
                ("throughput over the floor's", found["floor"], found["baseline"]),
                (f"throughput over that of {fastest}", found[fastest], found["baseline"]),
            ]
        )
        few = recipe.model_copy(update={"images": arguments.teacher_images})
        for arch in filter(None, arguments.teachers.split(",")):
            batches = batches_of(dataset, few, device)
            teacher = build_model(arch, classes).eval().requires_grad_(False)
            teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            alone = [ours((method,), batches, classes, teacher, Path(folder)) for method in TOGETHER]
            three = ours(TOGETHER, batches, classes, teacher, Path(folder))
            plain = ours(("baseline",), batches, classes, None, Path(folder))
            found = raw[arch] = measure([plain, *alone, three], arguments.blocks)
            apart = [sum(times) for times in zip(*(found[m] for m in TOGETHER), strict=True)]
            rows += ratios(
                [
                    (f"{arch}: epoch of {method} over baseline's", found[method], found["baseline"])
                    for method in TOGETHER
                ]
                + [(f"{arch}: three arms together over apart", found[three.name], apart)]
            )
    report = {
        "schema_version": 1, "benchmark": "training_speed", "dataset": arguments.dataset, "device": arguments.device,
        "threads": arguments.threads,
        "size": list(recipe.size), "batch_size": recipe.batch_size, "teacher_precision": recipe.teacher_precision,
        "rows": rows, "block_ms": raw,
        "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    height, width = recipe.size
    print(f"{height} x {width}, batch {recipe.batch_size}, {arguments.threads} threads, {arguments.device}")
    for row in rows:
        print(f"{row['name']:<60}{row['ratio']:>7.3f}  95% interval {row['ci95'][0]:.3f} to {row['ci95'][1]:.3f}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
