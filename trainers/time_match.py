"""The baseline that gets a distilled method's wall-clock: how many epochs fit in it.

A distilled arm pays for the teacher's pass in every step. Given the same number of epochs, the baseline was thus given
less time, and part of a gain may be that time. ``baseline-long`` has as many epochs as fit, its schedule stretched.

Seconds are compared only between arms that were trained side by side: alone, they would measure what else the machine
did. Loading images is in neither, so the ratio errs in the baseline's favour.
"""

from __future__ import annotations

from typing import Any

from kdbench.artifacts import TIME_MATCHED, RunTree, read_json, sidecar_path
from kdbench.errors import BadInput, Missing
from trainers.methods import TERMS
from trainers.recipe import Recipe


def time_matched(tree: RunTree, recipe: Recipe, match: str | None) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of ``baseline-long``, and what its sidecar says of the match.

    Args:
        recipe: the one that the baseline was trained with; another is refused.
        match: the distilled method whose time it gets, or None for the slowest.

    Returns:
        the recipe with more epochs, and {"method", "ratio": its seconds per step over the baseline's, "epochs": the
        baseline's, "seeds": those over which the ratio was taken}.

    Raises:
        Missing: no baseline, or no distilled method that was trained beside it. BadInput: another recipe.
    """
    beside = f"kdbench train --method baseline,{match or 'response'} --dataset {tree.dataset}"
    baseline = sidecars(tree, "baseline")
    if not baseline:
        raise Missing(f"{TIME_MATCHED}: no baseline to match under '{tree.root}': make it with `{beside}`")
    # The seed of the recipe does not matter: the ratio is of all seeds together.
    first = next(iter(baseline.values()))
    if changed := recipe.model_copy(update={"seed": first["seed"]}).changes_since(first["recipe"]):
        raise BadInput(
            f"{TIME_MATCHED}: the baseline was trained with another recipe ({', '.join(changed)}): give its flags"
        )
    ratios = [(*ratio_of(sidecars(tree, method), baseline), method) for method in ([match] if match else TERMS)]
    ratio, seeds, method = max(ratios)
    if not seeds:
        raise Missing(
            f"{TIME_MATCHED}: {match or 'no distilled method'} was {'not ' if match else ''}trained side by side with "
            f"the baseline, so that their seconds could be compared: do it with `{beside}`"
        )
    # At least the baseline's own: a ratio below 1 is noise of the clock.
    epochs = max(recipe.epochs, int(recipe.epochs * ratio))
    matched = {"method": method, "ratio": round(ratio, 4), "epochs": recipe.epochs, "seeds": seeds}
    return recipe.model_copy(update={"epochs": epochs}), matched


def sidecars(tree: RunTree, method: str) -> dict[int, dict[str, Any]]:
    """Seed → sidecar, of the checkpoints that exist."""
    command = f"kdbench train --method {method} --dataset {tree.dataset}"
    found = [read_json(sidecar_path(path), command) for path in tree.seed_checkpoints(method)]
    return {sidecar["seed"]: sidecar for sidecar in found}


def ratio_of(method: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]]) -> tuple[float, list[int]]:
    """Seconds per step over the baseline's, summed over the seeds that both were trained with side by side."""
    pairs = {
        seed: (method[seed], baseline[seed])
        for seed in sorted(method.keys() & baseline.keys())
        if run_of(method[seed]) == run_of(baseline[seed])
        and min(s["train_seconds"] for s in (method[seed], baseline[seed])) > 0
    }
    if not pairs:
        return 0.0, []
    ours, theirs = (sum(pair[i]["train_seconds"] / pair[i]["steps"] for pair in pairs.values()) for i in (0, 1))
    return ours / theirs, list(pairs)


def run_of(sidecar: dict[str, Any]) -> tuple[str, str]:
    """What the sidecars of one call of ``kdbench train`` have in common, and no other."""
    return sidecar["environment"]["time"], sidecar["environment"]["command"]
