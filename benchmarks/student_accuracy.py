"""The student's mIoU beside torchvision's ``lraspp_mobilenet_v3_large``: same data, recipe, seeds and budget.

    python -m benchmarks.student_accuracy train --data-root …      # the yardstick; goes on where it was stopped
    python -m benchmarks.student_accuracy score --json results/student-accuracy.json

The students' side is a comparison, ``results/camvid-180x240.json``. The yardstick trains by the command that trains
teachers, with the students' recipe in every field, and is scored by its training's last validation; both at the
labels' resolution. Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from kdbench.comparison.fairness import unread_by_the_baseline
from kdbench.comparison.numbers import difference, fraction, plus_minus
from kdbench.comparison.results import Comparison
from kdbench.comparison.seed_statistics import standard_error
from kdbench.machine.environment import environment
from kdbench.models.registry import count_gflops
from kdbench.runs.files import write_json, write_text
from kdbench.runs.folder import at_its_end
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import RunTree, sidecar_path
from trainers.recipe import Recipe

YARDSTICK = "lraspp_mobilenet_v3_large"


def yardstick_tree(runs: Path, dataset: str, seed: int) -> RunTree:
    return RunTree(runs / f"seed-{seed}", dataset)


def students_recipe(comparison: Comparison) -> Recipe:
    """That of the baseline, with the default seed."""
    return Recipe.model_validate({**comparison.training["baseline"]["recipe"], "seed": 0})


def train(arguments: argparse.Namespace) -> None:
    """``kdbench train`` once per seed, resumed where it was interrupted."""
    recipe = students_recipe(Comparison.read(arguments.comparison))
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


def same_training(students: Recipe, yardstick: dict[str, Any]) -> bool:
    """Whether both trained with the same numbers, but for what only distillation and teachers read."""
    ours, theirs = students.model_dump(mode="json"), Recipe.model_validate(yardstick).model_dump(mode="json")
    ignored = unread_by_the_baseline() | {"seed"}
    return all(ours[field] == theirs[field] for field in ours.keys() - ignored)


def score(arguments: argparse.Namespace) -> None:
    comparison = Comparison.read(arguments.comparison)
    recipe = students_recipe(comparison)
    yardsticks = {}
    for seed in arguments.seeds:
        path = sidecar_path(yardstick_tree(arguments.yardstick_runs, arguments.dataset, seed).checkpoint("teacher"))
        if path.exists():
            sidecar = read_training_sidecar(path, "benchmarks.student_accuracy train")
            if not same_training(recipe, sidecar["recipe"]):
                raise SystemExit(f"{path}: trained by another recipe than {arguments.comparison}: train it again")
            if at_its_end(sidecar):
                yardsticks[seed] = sidecar
    if not yardsticks:
        raise SystemExit(f"{arguments.yardstick_runs}: holds no finished training: make it with the step train")
    first = next(iter(yardsticks.values()))
    its_scores = {seed: sidecar["miou"] for seed, sidecar in yardsticks.items()}
    gflops = count_gflops(first["arch"], len(first["classes"]), recipe.size)
    rows = [row(YARDSTICK, first["params"], gflops, its_scores, its_scores)]
    for method, training in comparison.training.items():
        if not same_training(recipe, training["recipe"]):
            continue  # baseline-long has more epochs
        student = next(r for r in comparison.rows if r.method == method)
        scores = dict(zip(training["seeds"], training["miou_by_seed"], strict=True))
        rows.append(row(method, student.params, student.gflops, scores, its_scores))
    report = {
        "schema_version": 1, "benchmark": "student_accuracy", "rows": rows, "recipe": recipe.model_dump(mode="json"),
        "comparison": str(arguments.comparison),
        "environment": environment(),
        "yardstick_revisions": sorted({s["environment"]["git"]["revision"] for s in yardsticks.values()}),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    height, width = recipe.size
    print(f"{arguments.dataset} val, {height} x {width}, {recipe.epochs} epochs, mIoU")
    print(f"{'model':<28}{'params':>8}{'GFLOP':>8}{'seeds':>7}{'mean ± se':>18}{'over the yardstick':>22}")
    for entry in rows:
        miou = f"{fraction(entry['miou'])}{plus_minus(entry['standard_error'])}"
        over = "–"
        if entry["model"] != YARDSTICK and entry["shared_seeds"]:
            over = f"{difference(entry['difference'])}{plus_minus(entry['difference_standard_error'])}"
        print(
            f"{entry['model']:<28}{entry['params'] / 1e6:>7.2f}M{entry['gflops']:>8.2f}{len(entry['seeds']):>7}"
            f"{miou:>18}{over:>22}"
        )
    print(json.dumps(report))


def row(
    name: str, params: int | None, gflops: float | None, scores: dict[int, float], yardstick: dict[int, float]
) -> dict[str, Any]:
    """Mean over seeds, and the paired difference over those seeds that the yardstick has too."""
    values = list(scores.values())
    shared = sorted(scores.keys() & yardstick.keys())
    differences = [scores[seed] - yardstick[seed] for seed in shared]
    return {
        "model": name, "params": params, "gflops": gflops, "seeds": list(scores), "mious": values,
        "miou": fmean(values), "standard_error": standard_error(values), "shared_seeds": shared,
        "difference": fmean(differences) if shared else None,
        "difference_standard_error": standard_error(differences),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "score"))
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument(
        "--comparison", type=Path, default=Path("results/camvid-180x240.json"), help="what `kdbench compare` measured"
    )
    parser.add_argument("--yardstick-runs", type=Path, default=Path("runs/camvid-lraspp"))
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    (train if arguments.step == "train" else score)(arguments)


if __name__ == "__main__":
    main()
