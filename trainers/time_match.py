"""Methods that get another's wall-clock: how many epochs fit in it.

A distilled arm pays for the teacher's pass in every step. Given the same number of epochs, the baseline was thus given
less time, and part of a gain may be that time. ``baseline-long`` has as many epochs as fit, its schedule stretched;
with ``--match-time`` every method has as many as fit in the slowest's (arXiv 2604.25530).

Seconds are compared only between arms that were trained side by side, epoch by epoch, and the median counts: what
else the machine did slows both, and an epoch in which it stood still is one of many. Loading images is in neither, so
the ratio errs in the baseline's favour.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from kdbench.errors import BadInput, Missing
from kdbench.methods.base import METHODS, distilled_methods, student_methods
from kdbench.runs.files import read_json
from kdbench.runs.history import read_history
from kdbench.runs.tree import RunTree, sidecar_path
from trainers.recipe import Recipe

Seconds = dict[tuple[int, str], dict[int, float]]
"""(seed, call of ``kdbench train``) → epoch → its seconds, the teacher's pass included."""


@dataclass(frozen=True)
class Stage:
    """What is trained side by side: methods with one number of epochs.

    Attributes:
        matched: method → what its sidecar says of whose time it gets; empty where all have the same steps.
    """

    methods: tuple[str, ...]
    epochs: int
    matched: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """A clause for a training's title."""
        if not self.matched:
            return ""
        matched = self.matched[self.methods[0]]
        return f", {self.epochs} epochs in the time of {matched['method']}'s {matched['epochs']}"


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
        if (found := ratio_of(seconds_by_run(tree, method), theirs)) is not None:
            matches.append((found[0], method, found[1]))
    if not matches:
        raise Missing(
            f"{name}: {match or 'no distilled method'} was {'not ' if match else ''}trained side by side with "
            f"the baseline, so that their seconds could be compared: do it with `{beside}`"
        )
    ratio, method, seeds = max(matches)
    matched = {"method": method, "ratio": round(ratio, 4), "epochs": recipe.epochs, "seeds": seeds}
    return recipe.model_copy(update={"epochs": epochs_in(recipe, ratio)}), matched


def equal_time(tree: RunTree, recipe: Recipe, methods: tuple[str, ...], device: str) -> tuple[Recipe, list[Stage]]:
    """How to train methods for one wall-clock: that of the slowest method that was trained side by side with them.

    That one counts whether it is asked for or not: a variant's methods have one wall-clock, in however many calls they
    are trained.

    Args:
        tree: where they were trained for the same steps.
        recipe: the one that they were trained with; another is refused.
        methods: students.
        device: "cpu" or "cuda".

    Returns:
        the recipe in the precisions of that training, and a stage for each number of epochs.

    Raises:
        Missing: a method was not trained, or not side by side with the others. BadInput: another recipe or device.
    """
    beside = f"kdbench train --method {','.join(methods)} --dataset {tree.dataset}"
    do_it = f"run the same command without --match-time first, `{beside}` with your flags"
    for method in methods:
        if not tree.seed_checkpoints(method):
            where = tree.method_dir(method)
            raise Missing(f"--match-time: no {method}, trained for the same steps, in '{where}': {do_it}")
    first = read_json(sidecar_path(tree.seed_checkpoints(methods[0])[0]), beside)
    if changed := recipe.model_copy(update={"seed": first["seed"]}).changes_since(first["recipe"]):
        raise BadInput(
            f"--match-time: {methods[0]} was trained for the same steps with another recipe ({', '.join(changed)}): "
            "give its flags"
        )
    if (measured_on := first.get("device", device)) != device:
        raise BadInput(
            f"--match-time: the seconds of the same steps were measured on {measured_on}, got --device {device}: "
            f"give --device {measured_on}, or {do_it}"
        )
    every = [method for method in student_methods() if not METHODS[method].time_matched]
    seconds = {method: seconds_by_run(tree, method) for method in every}
    together = set.intersection(*(set(seconds[method]) for method in methods))
    by_call = {
        method: {call: of_call for call, of_call in seconds[method].items() if call in together} for method in every
    }
    reference = by_call[methods[0]]
    slowness = {method: found[0] for method in every if (found := ratio_of(by_call[method], reference)) is not None}
    if not slowness.keys() >= set(methods):
        raise Missing(
            f"--match-time: {', '.join(methods)} were not trained side by side, so that their seconds could be "
            f"compared: {do_it}"
        )
    slowest = max(slowness, key=lambda method: slowness[method])
    stages: dict[int, Stage] = {}
    for method in methods:
        found = ratio_of(by_call[slowest], by_call[method])
        assert found is not None
        ratio, seeds = found
        matched = {"method": slowest, "ratio": round(ratio, 4), "epochs": recipe.epochs, "seeds": seeds}
        epochs = epochs_in(recipe, ratio)
        before = stages.get(epochs, Stage((), epochs))
        stages[epochs] = Stage((*before.methods, method), epochs, {**before.matched, method: matched})
    precisions = {key: first["recipe"][key] for key in ("precision", "teacher_precision") if key in first["recipe"]}
    return recipe.model_copy(update=precisions), list(stages.values())


def epochs_in(recipe: Recipe, ratio: float) -> int:
    """Epochs that fit in the time of ``ratio`` times the recipe's; never fewer, which would be noise of the clock."""
    return max(recipe.epochs, int(recipe.epochs * ratio + 1e-9))


def ratio_of(ours: Seconds, theirs: Seconds) -> tuple[float, list[int]] | None:
    """The median of our seconds over theirs, epoch by epoch, and the seeds; None where nothing was side by side."""
    shared = ours.keys() & theirs.keys()
    ratios = [ours[run][e] / theirs[run][e] for run in shared for e in ours[run].keys() & theirs[run].keys()]
    return (median(ratios), sorted(seed for seed, _ in shared)) if ratios else None


def seconds_by_run(tree: RunTree, method: str) -> Seconds:
    """The seconds of a method's epochs.

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
