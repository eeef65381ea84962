"""What the comparison notes about its trainings, of every seed and fold."""

from __future__ import annotations

from kdbench.comparison.fairness import notes_on

DEFAULTS = {"lr": 0.001, "epochs": 60}


def sidecar(seed, epoch=60, **recipe):
    return {
        "seed": seed, "epoch": epoch, "epochs": 60, "recipe": {**DEFAULTS, **recipe}, "train_images": 8,
        "train_seconds": 1.0,
    }  # fmt: skip


def notes(trained, folds=None):
    return notes_on(trained, folds or {}, [], None, DEFAULTS)


def test_alike_trainings_need_no_note():
    runs = {"baseline": [sidecar(0), sidecar(1)], "response": [sidecar(0), sidecar(1)]}
    assert notes(runs, {f"hold-out=a/{run}": sidecars for run, sidecars in runs.items()}) == []


def test_a_later_seed_that_was_stopped_is_named():
    runs = {"baseline": [sidecar(0), sidecar(1)], "response": [sidecar(0), sidecar(1, epoch=3)]}
    assert notes(runs) == [
        "response seed 1: training stopped at epoch 3 of 60: finish it with `kdbench train --method response "
        "--seeds 0,1 --resume`"
    ]
    assert notes({"response": [sidecar(0, epoch=3)]}) == [
        "response: training stopped at epoch 3 of 60: finish it with `kdbench train --method response --resume`"
    ]


def test_later_seeds_of_another_recipe_are_named_together():
    runs = {
        "baseline": [sidecar(seed) for seed in range(3)],
        "response": [sidecar(0), sidecar(1, lr=0.5), sidecar(2, lr=0.5)],
        "dist": [sidecar(seed, lr=0.1) for seed in range(3)],
    }
    assert notes(runs) == [
        "response seeds 1, 2: trained with another recipe than the baseline (lr): not a fair comparison",
        "dist: trained with another recipe than the baseline (lr): not a fair comparison",
    ]


def test_seeds_are_held_against_the_baseline_of_the_same_seed():
    changed = [sidecar(0), sidecar(1, lr=0.5)]
    assert notes({"baseline": changed, "response": changed}) == []
    (note,) = notes({"baseline": changed, "response": [sidecar(0), sidecar(1)]})
    assert note.startswith("response seed 1: trained with another recipe")


def test_folds_are_looked_at_too():
    whole = {"baseline": [sidecar(0)], "response": [sidecar(0)]}
    folds = {"hold-out=a/baseline": [sidecar(0)], "hold-out=a/response": [sidecar(0, epoch=1, lr=0.5)]}
    stopped, unfair = notes(whole, folds)
    assert stopped.startswith("hold-out=a/response: training stopped at epoch 1 of 60")
    assert unfair.startswith("hold-out=a/response: trained with another recipe than the baseline (lr)")
