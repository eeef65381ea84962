"""Whether methods were trained under the same conditions, and what a reader must know beside the table."""

from __future__ import annotations

from typing import Any

from kdbench.comparison.results import Improvement, Teacher
from kdbench.methods.base import METHODS, method_in, recipe_fields
from kdbench.runs.folder import at_its_end

KD_LEAD = 0.03
"""A teacher that leads the baseline by less is not expected to help."""


def notes_on(
    trained: dict[str, list[dict[str, Any]]],
    folds: dict[str, list[dict[str, Any]]],
    improvements: list[Improvement],
    teacher: Teacher | None,
    recipe_defaults: dict[str, Any],
) -> list[str]:
    """What a reader must know before believing the table.

    Args:
        trained: run (a method, or "variant/method") → sidecars of its seeds.
        folds: the same of trainings without a recording.
        recipe_defaults: every field of a recipe, for sidecars of before a field came.
    """
    notes = [*unfinished_notes(trained | folds), *recipe_notes(trained | folds, recipe_defaults)]
    first = {run: sidecars[0] for run, sidecars in trained.items()}
    for run in (run for run in first if METHODS[method_in(run)].time_matched):
        matched = first[run]["time_matched"]
        notes.append(
            f"{run}: the baseline with {first[run]['epochs']} epochs, which fit in the time of "
            f"{matched['method']}'s {matched['epochs']} ({matched['ratio']:.2f} times the baseline's seconds per step)"
        )
    notes += time_notes(first)
    few = [gain for gain in improvements if gain.standard_error_over == "images" and gain.on == "val"]
    if few:
        named = ", ".join(f"{gain.run} ({gain.seeds} seed{'s' * (gain.seeds > 1)})" for gain in few)
        notes.append(
            f"the spread between trainings is unknown below 3 seeds, so no gain is claimed of {named}: "
            "train these and the baseline with --seeds 0,1,2"
        )
    if teacher is not None and teacher.lead is not None and teacher.lead < KD_LEAD:
        notes.append(
            f"the teacher leads the baseline by {100 * teacher.lead:.1f} points of mIoU, under 3: "
            "distillation is not expected to help"
        )
    return notes


def unfinished_notes(trained: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Trainings that have not come to their last epoch, which count in means and verdicts all the same."""
    notes = []
    for run, sidecars in trained.items():
        every = [sidecar["seed"] for sidecar in sidecars]
        seeds = f" --seeds {','.join(map(str, every))}" if len(every) > 1 else ""
        notes += [
            f"{named(run, [sidecar['seed']], every)}: training stopped at epoch {sidecar['epoch']} of "
            f"{sidecar['epochs']}: finish it with `kdbench train --method {method_in(run)}{seeds} --resume`"
            for sidecar in sidecars
            if not at_its_end(sidecar)
        ]
    return notes


def recipe_notes(trained: dict[str, list[dict[str, Any]]], defaults: dict[str, Any]) -> list[str]:
    """Trainings under other conditions than the baseline's of the same seed, or than its first one's."""
    notes = []
    for run, sidecars in trained.items():
        baselines = trained.get(run.removesuffix(method_in(run)) + "baseline", [])
        by_seed = {baseline["seed"]: baseline for baseline in baselines}
        seeds_of: dict[str, list[int]] = {}
        for sidecar in sidecars if baselines else []:
            baseline = by_seed.get(sidecar["seed"], baselines[0])
            if keys := unfair_differences(method_in(run), sidecar, baseline, defaults):
                seeds_of.setdefault(", ".join(keys), []).append(sidecar["seed"])
        every = [sidecar["seed"] for sidecar in sidecars]
        notes += [
            f"{named(run, seeds, every)}: trained with another recipe than the baseline ({keys}): not a fair comparison"
            for keys, seeds in seeds_of.items()
        ]
    return notes


def named(run: str, seeds: list[int], every: list[int]) -> str:
    """A run, with the seeds that are meant where they are not all of its."""
    if seeds == every:
        return run
    return f"{run} seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def time_notes(trained: dict[str, dict[str, Any]]) -> list[str]:
    """For each variant whose methods have one wall-clock: that they do, and each method's epochs and seconds."""
    rows: dict[str, list[str]] = {}
    for run, sidecar in trained.items():
        if (of := time_of(method_in(run), sidecar)) is not None:
            beginning = (
                f"{run.rpartition('/')[0]}: these rows had the same wall-clock, that of {of[0]} in {of[1]} epochs, "
                "and not the same steps"
            )
            told = f"{method_in(run)} {sidecar['epochs']} epochs, {sidecar['train_seconds']:,.1f} s"
            rows.setdefault(beginning, []).append(told)
    return [f"{beginning}: {'; '.join(told)}" for beginning, told in rows.items()]


def time_of(method: str, sidecar: dict[str, Any]) -> tuple[str, int] | None:
    """Method and epochs whose time a training of ``--match-time`` had; None of another."""
    matched = sidecar.get("time_matched")
    return None if matched is None or METHODS[method].time_matched else (matched["method"], matched["epochs"])


def unread_by_the_baseline() -> set[str]:
    """Fields of a recipe that may differ between the baseline and a method, since the baseline does not read them."""
    return {"teacher", "teacher_precision", *recipe_fields()}


def unfair_differences(
    method: str, sidecar: dict[str, Any], baseline: dict[str, Any], defaults: dict[str, Any]
) -> list[str]:
    """Fields of the recipe in which a method had other conditions than the baseline, the images' number, and the time.

    The epochs of a time-matched method differ on purpose: what it must share is the time. A field that one of the two
    lacks came with a later version, whose default does what was done before.
    """
    ours, theirs = ({**defaults, **about["recipe"]} for about in (sidecar, baseline))
    theirs_matched, ours_matched = time_of("baseline", baseline), time_of(method, sidecar)
    in_one_time = theirs_matched is not None and ours_matched is not None
    allowed = unread_by_the_baseline() | ({"epochs"} if in_one_time or METHODS[method].time_matched else set())
    differing = [key for key in ours if key not in allowed and ours[key] != theirs.get(key)]
    if in_one_time and ours_matched != theirs_matched:
        differing.append("matched time")
    numbers = ("train_images", "unlabelled_train_images")
    return differing + [number for number in numbers if sidecar.get(number) != baseline.get(number)]
