"""The baseline that gets a distilled method's wall-clock: how many epochs fit in it.

A distilled arm pays for the teacher's pass in every step. Given the same number of epochs, the baseline was thus given
less time, and part of a gain may be that time. ``baseline-long`` has as many epochs as fit, its schedule stretched.

Seconds are compared only between arms that were trained side by side, epoch by epoch, and the median counts: what
else the machine did slows both, and an epoch in which it stood still is one of many. Loading images is in neither, so
the ratio errs in the baseline's favour.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from kdbench.errors import BadInput, Missing
from kdbench.methods.base import distilled_methods
from kdbench.runs.files import read_json
from kdbench.runs.history import read_history
from kdbench.runs.tree import RunTree, sidecar_path
from trainers.recipe import Recipe


def time_matched(tree: RunTree, recipe: Recipe, match: str | None, name: str) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of a time-matched method, and what its sidecar says of the match.

    Args:
        recipe: the one that the baseline was trained with; another is refused.
        match: the distilled method whose time it gets, or None for the slowest.
        name: the method's, for errors.

    Returns:
        the recipe with more epochs, and {"method", "ratio": its seconds per step over the baseline's, "epochs": the
        baseline's, "seeds": those over which the ratio was taken}.

    Raises:
        Missing: no baseline, or no distilled method that was trained beside it. BadInput: another recipe.
    """
    beside = f"kdbench train --method baseline,{match or 'response'} --dataset {tree.dataset}"
    baselines = tree.seed_checkpoints("baseline")
    if not baselines:
        raise Missing(f"{name}: no baseline to match under '{tree.root}': make it with `{beside}`")
    # The seed of the recipe does not matter: the ratio is of all seeds together.
    first = read_json(sidecar_path(baselines[0]), beside)
    if changed := recipe.model_copy(update={"seed": first["seed"]}).changes_since(first["recipe"]):
        raise BadInput(f"{name}: the baseline was trained with another recipe ({', '.join(changed)}): give its flags")
    theirs = seconds_by_run(tree, "baseline")
    matches = []
    for method in [match] if match else distilled_methods():
        ours = seconds_by_run(tree, method)
        shared = ours.keys() & theirs.keys()
        ratios = [ours[run][e] / theirs[run][e] for run in shared for e in ours[run].keys() & theirs[run].keys()]
        if ratios:
            matches.append((median(ratios), method, sorted(seed for seed, _ in shared)))
    if not matches:
        raise Missing(
            f"{name}: {match or 'no distilled method'} was {'not ' if match else ''}trained side by side with "
            f"the baseline, so that their seconds could be compared: do it with `{beside}`"
        )
    ratio, method, seeds = max(matches)
    # At least the baseline's own: a ratio below 1 is noise of the clock.
    epochs = max(recipe.epochs, int(recipe.epochs * ratio))
    matched = {"method": method, "ratio": round(ratio, 4), "epochs": recipe.epochs, "seeds": seeds}
    return recipe.model_copy(update={"epochs": epochs}), matched


def seconds_by_run(tree: RunTree, method: str) -> dict[tuple[int, str], dict[int, float]]:
    """(seed, call of ``kdbench train``) → epoch → its seconds, the teacher's pass included.

    Two methods share a key when they were trained side by side: the sidecars of one call have in common, and with no
    other, when and how it was called. Epochs too short for the clock are left out.
    """
    found = {}
    trained = tree.seed_checkpoints(method)
    histories = {seed.path.parent: seed.rows for seed in read_history(tree, method).seeds} if trained else {}
    for path in trained:
        sidecar = read_json(sidecar_path(path), f"kdbench train --method {method} --dataset {tree.dataset}")
        rows = histories.get(path.parent, ())
        ends = [0.0, *(row["seconds"] for row in rows)]
        seconds = {row["epoch"]: end - start for row, start, end in zip(rows, ends, ends[1:], strict=False)}
        called = sidecar["environment"]
        key = sidecar["seed"], f"{called['time']} {called['command']}"
        found[key] = {epoch: value for epoch, value in seconds.items() if value > 0}
    return found
