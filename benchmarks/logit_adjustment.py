"""What the class weights' bias costs: mIoU of trained models as it is taken out of their logits, share by share.

    python -m benchmarks.logit_adjustment --runs runs/camvid-cpu --json results/logit-adjustment.json

A network trained with class weights w predicts rare classes too often. Subtracting share · log w from its classifier's
bias gives the model that the recipe's ``logit_adjustment`` would have trained, but for the path to it. Prints one table
and one JSON line; no model is trained, and no latency measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from kdbench.backends.torch_eager import TorchBackend
from kdbench.comparison.evaluate import evaluate
from kdbench.comparison.numbers import fraction, plus_minus
from kdbench.comparison.seed_statistics import standard_error
from kdbench.data import SegmentationDataset, open_dataset
from kdbench.machine.environment import environment
from kdbench.models.registry import load_model
from kdbench.runs.files import write_json
from kdbench.runs.tree import RunTree
from trainers.images import TrainingImages
from trainers.methods import logit_shift
from trainers.recipe import Recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="trained with class_weights, without an adjustment")
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path, default=Path("data/camvid"))
    parser.add_argument("--methods", default="teacher,baseline,response,dist")
    parser.add_argument("--shares", default="0,0.25,0.5,0.75,1")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    tree = RunTree(arguments.runs, arguments.dataset)
    shares = [float(share) for share in arguments.shares.split(",")]
    validation = open_dataset(arguments.dataset, "val", arguments.data_root)
    train_set = open_dataset(arguments.dataset, "train", arguments.data_root)
    weights: torch.Tensor | None = None
    rows: list[dict[str, Any]] = []
    for method in arguments.methods.split(","):
        row: dict[str, Any] = {"method": method, "seeds": [], "miou": []}
        for path in tree.seed_checkpoints(method):
            model, sidecar = load_model(path, f"kdbench train --method {method}")
            recipe = Recipe.model_validate(sidecar["recipe"])
            if not recipe.class_weights or recipe.logit_adjustment:
                raise SystemExit(f"{path}: expected a model trained with class_weights and without logit_adjustment")
            if weights is None:
                images = TrainingImages(train_set, recipe.size, recipe.images, torch.device("cpu"))
                weights = images.class_frequencies(range(images.count))
            row["seeds"].append(sidecar["seed"])
            row["miou"].append(miou_by_share(model, weights, shares, recipe.size, validation))
        rows.append(row)
    report = {
        "schema_version": 1, "benchmark": "logit_adjustment", "shares": shares, "rows": rows,
        "class_weights": None if weights is None else weights.tolist(), "classes": list(validation.classes),
        "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(f"{'mIoU, share taken out':<28}{'seeds':>6}" + "".join(f"{share:>17g}" for share in shares))
    for row in rows:
        by_share = list(zip(*row["miou"], strict=True))
        cells = [f"{fraction(fmean(scores))}{plus_minus(standard_error(scores))}" for scores in by_share]
        print(f"{row['method']:<28}{len(row['seeds']):>6}" + "".join(f"{cell:>17}" for cell in cells))
    print(json.dumps(report))


def miou_by_share(
    model: Any, weights: torch.Tensor, shares: list[float], size: tuple[int, int], validation: SegmentationDataset
) -> list[float]:
    """mIoU of the model by share; a model with a final convolution ``classifier``."""
    trained = model.classifier.bias.detach().clone()
    found = []
    for share in shares:
        model.classifier.bias.data = trained - logit_shift(weights, share).flatten()
        found.append(evaluate(TorchBackend(model, output="mask", size=size), validation).miou)
    return found


if __name__ == "__main__":
    main()
