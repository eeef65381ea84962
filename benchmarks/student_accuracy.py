"""The student's mIoU beside torchvision's ``lraspp_mobilenet_v3_large``: same data, recipe, seeds and budget.

    kdbench train --method baseline,response --dataset camvid --data-root … --seeds 0,1,2 --runs runs/camvid-cpu
    python -m benchmarks.student_accuracy train --data-root …      # the yardstick; goes on where it was stopped
    python -m benchmarks.student_accuracy score --json results/student-accuracy.json

The yardstick trains by the command that trains teachers, with the students' recipe in every field. Both are scored by
the training's own last validation, at the labels' resolution. Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.artifacts import RunTree, sidecar_path, write_json, write_text
from kdbench.environment import environment
from kdbench.models.deploy import count_gflops
from kdbench.sidecar import read_training_sidecar
from trainers.recipe import Recipe, load_recipe

YARDSTICK = "lraspp_mobilenet_v3_large"
Sidecar = dict[str, Any]


def yardstick_tree(runs: Path, dataset: str, seed: int) -> RunTree:
    return RunTree(runs / f"seed-{seed}", dataset)


def train(arguments: argparse.Namespace) -> None:
    """``kdbench train`` once per seed, resumed where it was interrupted."""
    recipe = load_recipe(arguments.recipe, {})
    fields = {"lr": recipe.lr, "batch_size": recipe.batch_size, "epochs": recipe.epochs, "arch": YARDSTICK}
    text = "".join(
        f"{name} = {json.dumps(value)}\n"
        for name, value in recipe.model_dump(mode="json").items()
        if value is not None and name not in ("teacher", "teacher_precision", "seed")
    )
    text += f"teacher_precision = {json.dumps(recipe.precision)}\n\n[teacher]\n"
    text += "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())
    path = arguments.yardstick_runs / "recipe.toml"
    write_text(path, text)
    for seed in arguments.seeds:
        runs = yardstick_tree(arguments.yardstick_runs, arguments.dataset, seed).runs
        command = [
            sys.executable, "-m", "kdbench", "train", "--method", "teacher", "--dataset", arguments.dataset,
            "--data-root", str(arguments.data_root), "--runs", str(runs), "--recipe", str(path), "--seed", str(seed),
            "--resume",
        ]  # fmt: skip
        subprocess.run(command, check=True)


def same_training(student: Sidecar, yardstick: Sidecar) -> bool:
    """Whether both trained with the same numbers, but for what only distillation and teachers read."""
    ours, theirs = (Recipe.model_validate(s["recipe"]).model_dump(mode="json") for s in (student, yardstick))
    fields = ("size", "images", "epochs", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "warmup_steps",
              "precision", "class_weights", "scale_min", "scale_max", "flip", "jitter", "alpha")  # fmt: skip
    return all(ours[field] == theirs[field] for field in fields)


def score(arguments: argparse.Namespace) -> None:
    found: dict[str, dict[int, Sidecar]] = {YARDSTICK: {}}
    for seed in arguments.seeds:
        path = sidecar_path(yardstick_tree(arguments.yardstick_runs, arguments.dataset, seed).checkpoint("teacher"))
        if path.exists():
            sidecar = read_training_sidecar(path, "benchmarks.student_accuracy train")
            if sidecar["epoch"] == sidecar["epochs"]:
                found[YARDSTICK][seed] = sidecar
    students = RunTree(arguments.runs, arguments.dataset)
    for method in arguments.methods:
        sidecars = [read_training_sidecar(sidecar_path(p), "kdbench train") for p in students.seed_checkpoints(method)]
        found[method] = {s["seed"]: s for s in sidecars if s["seed"] in arguments.seeds and s["epoch"] == s["epochs"]}
    any_student = next(iter(found[arguments.methods[0]].values()))
    for group in found.values():
        for sidecar in group.values():
            if not same_training(any_student, sidecar):
                raise SystemExit(
                    f"{sidecar['method']} seed {sidecar['seed']} was trained by another recipe: train it again"
                )
    rows = [row(name, group, found[YARDSTICK]) for name, group in found.items() if group]
    report = {
        "schema_version": 1, "benchmark": "student_accuracy", "rows": rows,
        "environment": {**environment(), "command": "python -m benchmarks.student_accuracy score"},
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    height, width = any_student["size"]
    print(f"{arguments.dataset} val, {height} x {width}, {any_student['epochs']} epochs, mIoU %")
    print(f"{'model':<28}{'params':>8}{'GFLOP':>8}{'seeds':>7}{'mean ± se':>15}{'over the yardstick':>22}")
    for entry in rows:
        miou = f"{100 * entry['miou']:.2f}{plus_minus(entry['standard_error'])}"
        over = "–"
        if entry["model"] != YARDSTICK and entry["shared_seeds"]:
            over = f"{100 * entry['difference']:+.2f}{plus_minus(entry['difference_standard_error'])}"
        print(
            f"{entry['model']:<28}{entry['params'] / 1e6:>7.2f}M{entry['gflops']:>8.2f}{len(entry['seeds']):>7}"
            f"{miou:>15}{over:>22}"
        )
    print(json.dumps(report))


def row(name: str, group: dict[int, Sidecar], yardstick: dict[int, Sidecar]) -> dict[str, Any]:
    """Mean over seeds, and the paired difference over those seeds that the yardstick has too."""
    any_one = next(iter(group.values()))
    scores = np.array([sidecar["miou"] for sidecar in group.values()])
    shared = sorted(group.keys() & yardstick.keys())
    differences = np.array([group[seed]["miou"] - yardstick[seed]["miou"] for seed in shared])
    return {
        "model": name, "arch": any_one["arch"], "params": any_one["params"],
        "gflops": count_gflops(any_one["arch"], len(any_one["classes"]), tuple(any_one["size"])),
        "seeds": list(group), "mious": scores.tolist(), "miou": float(scores.mean()),
        "standard_error": standard_error(scores), "shared_seeds": shared,
        "difference": float(differences.mean()) if shared else None,
        "difference_standard_error": standard_error(differences),
        "iou_per_class": np.mean([s["iou_per_class"] for s in group.values()], axis=0).tolist(),
        "revisions": sorted({s["environment"]["git"]["revision"] for s in group.values()}),
    }  # fmt: skip


def standard_error(values: NDArray[np.float64]) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def plus_minus(error: float | None) -> str:
    return "" if error is None else f" ± {100 * error:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "score"))
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--recipe", default="camvid", help="of the students: a name or a .toml file")
    parser.add_argument("--runs", type=Path, default=Path("runs/camvid-cpu"), help="where the students are")
    parser.add_argument("--yardstick-runs", type=Path, default=Path("runs/camvid-lraspp"))
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["baseline"], help="students to score")
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    (train if arguments.step == "train" else score)(arguments)


if __name__ == "__main__":
    main()
