"""The published methods and the time-matched baseline, trained, resumed, compared and drawn by the commands."""

from __future__ import annotations

import json
import shutil
from statistics import median

import pytest
from safetensors.torch import load_file

from kdbench.comparison.fairness import unfair_differences
from kdbench.comparison.results import Comparison
from kdbench.comparison.tables import as_csv, as_markdown, as_text
from kdbench.runs.tree import RunTree
from tests.exports import read_unsealed
from tests.trainings import equal, interrupt_after
from trainers.recipe import Recipe
from trainers.time_match import seconds_by_run, time_matched

PUBLISHED = ("cwd", "dist")


@pytest.fixture
def runs(trained_runs, tmp_path):
    """A copy to train in: teacher, and the standard four, trained side by side for 2 epochs."""
    return shutil.copytree(trained_runs, tmp_path / "runs")


def sidecar(runs, method, seed=""):
    return read_unsealed(runs / "folder" / method / seed / "student.json")


def history(runs, method, seed=""):
    text = (runs / "folder" / method / seed / "history.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def set_seconds(runs, **seconds):
    """Give histories the seconds per epoch that a machine might have measured; they add up over the epochs."""
    for method, value in seconds.items():
        rows = [{**row, "seconds": value * row["epoch"]} for row in history(runs, method)]
        path = runs / "folder" / method / "history.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def weights(runs, method):
    return load_file(runs / "folder" / method / "student.safetensors")


def train(kdbench, runs, *flags):
    done = kdbench("train", "--runs", runs, *flags)
    assert done.code == 0, done.err
    return done


def test_all_is_the_guides_methods_and_no_other(trained_runs):
    made = {path.parent.name for path in (trained_runs / "folder").glob("*/*.safetensors")}
    assert made == {"baseline", "response", "feature", "combined", "teacher"}


def test_published_methods_train_with_their_own_term(kdbench, runs, tiny_arguments):
    done = train(kdbench, runs, "--method", "cwd,dist", *tiny_arguments)
    assert [line.split()[0] for line in done.out.splitlines() if ": mIoU " in line] == ["cwd", "dist"]
    for method in PUBLISHED:
        rows = history(runs, method)
        assert [row["epoch"] for row in rows] == [1, 2]
        assert set(rows[0]) == {"epoch", "lr", "loss", "ce", method, "miou", "seconds"}
        weight = {"cwd": 3.0, "dist": 1.0}[method]
        for row in rows:
            assert row["loss"] == pytest.approx(row["ce"] + weight * row[method], rel=1e-4)
            assert row[method] > 0
        assert sidecar(runs, method)["teacher"]["arch"] == "fpn_resnet18"
        assert weights(runs, method).keys() == weights(runs, "baseline").keys()
        assert not equal(weights(runs, method), weights(runs, "baseline"))
    assert not equal(weights(runs, "cwd"), weights(runs, "dist"))


def test_published_methods_resume_to_the_same_weights(kdbench, runs, tiny_arguments, monkeypatch):
    """Interrupted when cwd had its first epoch saved and dist had none: both end as if nothing had happened."""
    train(kdbench, runs, "--method", "cwd,dist", *tiny_arguments)
    whole = {method: weights(runs, method) for method in PUBLISHED}
    interrupt_after(monkeypatch, "save_state", 1)
    done = kdbench("train", "--method", "cwd,dist", "--runs", runs, *tiny_arguments)
    assert done.code == 130
    monkeypatch.undo()
    assert (runs / "folder" / "cwd" / "state.pt").exists()
    for method in PUBLISHED:
        (runs / "folder" / method / "student.safetensors").unlink()
    train(kdbench, runs, "--method", "cwd,dist", "--resume", *tiny_arguments)
    for method in PUBLISHED:
        assert equal(weights(runs, method), whole[method])
        assert [row["epoch"] for row in history(runs, method)] == [1, 2]


def test_a_resume_skips_runs_of_before_the_newer_recipe_fields(kdbench, runs, tiny_arguments):
    """A tree that an earlier version trained is finished: its sidecars lack fields whose defaults changed nothing."""
    path = runs / "folder" / "baseline" / "student.json"
    document = sidecar(runs, "baseline")
    for field in ("cwd_weight", "cwd_temperature", "dist_weight", "dist_temperature"):
        del document["recipe"][field]
    path.write_text(json.dumps(document), encoding="utf-8")
    before = (runs / "folder" / "baseline" / "student.safetensors").stat().st_mtime_ns
    train(kdbench, runs, "--method", "baseline", "--resume", *tiny_arguments)
    assert (runs / "folder" / "baseline" / "student.safetensors").stat().st_mtime_ns == before


# The time-matched baseline


@pytest.mark.parametrize(
    ("flags", "method", "ratio", "epochs"),
    [([], "combined", 2.6, 5), (["--match", "response"], "response", 1.5, 3)],
)
def test_the_time_matched_baseline_has_the_epochs_that_fit(kdbench, runs, tiny_arguments, flags, method, ratio, epochs):
    set_seconds(runs, baseline=10.0, response=15.0, feature=20.0, combined=26.0)
    done = train(kdbench, runs, "--method", "baseline-long", *flags, *tiny_arguments)
    assert f"{epochs} epochs in the time of {method}'s 2" in done.out
    about = sidecar(runs, "baseline-long")
    assert about["time_matched"] == {"method": method, "ratio": ratio, "epochs": 2, "seeds": [0]}
    assert (about["epochs"], about["recipe"]["epochs"], about["steps"]) == (epochs, epochs, 2 * epochs)
    rows = history(runs, "baseline-long")
    assert set(rows[0]) == {"epoch", "lr", "loss", "ce", "miou", "seconds"}
    # The schedule is stretched, not cut: it still ends at 0, and only in the last epoch.
    rates = [row["lr"] for row in rows]
    assert len(rates) == epochs
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates[-2] > 1e-5


def test_with_no_time_to_spare_it_is_the_baseline_bit_for_bit(kdbench, runs, tiny_arguments):
    set_seconds(runs, baseline=10.0, response=9.0, feature=9.5, combined=10.0)
    train(kdbench, runs, "--method", "baseline-long", *tiny_arguments)
    assert sidecar(runs, "baseline-long")["epochs"] == 2
    assert equal(weights(runs, "baseline-long"), weights(runs, "baseline"))


def test_it_comes_after_the_arms_that_it_is_matched_to_and_resumes(kdbench, runs, tiny_arguments):
    command = ["--method", "baseline-long,baseline,cwd", "--seeds", "0,1", *tiny_arguments]
    train(kdbench, runs, *command)
    matched = sidecar(runs, "baseline-long")["time_matched"]
    # The standard methods were not trained beside this new baseline, so their seconds do not count.
    assert (matched["method"], matched["seeds"]) == ("cwd", [0, 1])
    ratios = []
    for seed in ("", "seed-1"):
        ours, theirs = ([row["seconds"] for row in history(runs, method, seed)] for method in ("cwd", "baseline"))
        ratios += [ours[0] / theirs[0], (ours[1] - ours[0]) / (theirs[1] - theirs[0])]
    assert matched["ratio"] == pytest.approx(median(ratios), abs=1e-3)
    assert sidecar(runs, "baseline-long")["epochs"] == max(2, int(2 * matched["ratio"]))
    assert sidecar(runs, "baseline-long", "seed-1")["epochs"] == sidecar(runs, "baseline-long")["epochs"]
    files = sorted((runs / "folder").glob("*/**/student.safetensors"))
    before = [path.stat().st_mtime_ns for path in files]
    train(kdbench, runs, *command, "--resume")
    assert [path.stat().st_mtime_ns for path in files] == before


def test_seconds_of_different_runs_are_not_compared(kdbench, runs, tiny_arguments):
    path = runs / "folder" / "baseline" / "student.json"
    document = sidecar(runs, "baseline")
    document["environment"]["time"] = "2020-01-01T00:00:00+00:00"
    path.write_text(json.dumps(document), encoding="utf-8")
    done = kdbench("train", "--method", "baseline-long", "--match", "response", "--runs", runs, *tiny_arguments)
    assert (done.code, done.err) == (
        2,
        "kdbench: baseline-long: response was not trained side by side with the baseline, so that their seconds could "
        "be compared: do it with `kdbench train --method baseline,response --dataset folder`\n",
    )
    done = kdbench("train", "--method", "baseline-long", "--runs", runs, *tiny_arguments)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "no distilled method was trained side by side with the baseline" in done.err


def test_another_recipe_than_the_baselines_is_refused(kdbench, runs, tiny_arguments):
    done = kdbench("train", "--method", "baseline-long", "--epochs", "3", "--runs", runs, *tiny_arguments)
    assert (done.code, done.err) == (
        2, "kdbench: baseline-long: the baseline was trained with another recipe (epochs 2 → 3): give its flags\n",
    )  # fmt: skip


def test_without_a_baseline_it_says_what_to_train(kdbench, tiny_arguments, tmp_path):
    done = kdbench("train", "--method", "baseline-long", "--runs", tmp_path, *tiny_arguments)
    assert done.code == 2
    assert done.err.endswith("make it with `kdbench train --method baseline,response --dataset folder`\n")


def test_an_epoch_in_which_the_machine_stood_still_does_not_count(runs):
    """Suspended for an hour within a step of one arm: the ratio is that of the other epochs, here of 3 seeds."""
    tree = RunTree(runs, "folder")
    for seed, ratios in ((1, (1.5, 3600.0)), (2, (1.6, 1.4))):
        for method in ("baseline", "response"):
            folder = runs / "folder" / method
            shutil.copytree(folder, folder / f"seed-{seed}", ignore=shutil.ignore_patterns("seed-*"))
            (folder / f"seed-{seed}" / "student.json").write_text(json.dumps({**sidecar(runs, method), "seed": seed}))
            steps = ratios if method == "response" else (1.0, 1.0)
            rows = [{**row, "seconds": sum(steps[: row["epoch"]])} for row in history(runs, method)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"seed-{seed}" / "history.jsonl").write_text(text, encoding="utf-8")
    set_seconds(runs, baseline=2.0, response=3.0)
    recipe = Recipe.model_validate(sidecar(runs, "baseline")["recipe"])
    _, matched = time_matched(tree, recipe, "response", "baseline-long")
    assert matched == {"method": "response", "ratio": 1.5, "epochs": 2, "seeds": [0, 1, 2]}


def test_seconds_by_epoch_are_differences_of_the_histories(runs):
    set_seconds(runs, feature=7.5)
    ((seed, call), seconds) = next(iter(seconds_by_run(RunTree(runs, "folder"), "feature").items()))
    assert seed == 0
    assert call.endswith(sidecar(runs, "feature")["environment"]["command"])
    assert seconds == {1: 7.5, 2: 7.5}


# Shown


@pytest.fixture(scope="module")
def all_methods(trained_runs, tmp_path_factory, folder_dataset, tiny_recipe):
    """A tree with every method; the time-matched baseline has 4 epochs to the others' 2."""
    from kdbench.cli.training import TrainFlags, run_training

    runs = shutil.copytree(trained_runs, tmp_path_factory.mktemp("all") / "runs")
    set_seconds(runs, baseline=10.0, response=20.0, feature=15.0, combined=15.0)
    methods = ("cwd", "dist", "baseline-long")
    run_training(RunTree(runs, "folder"), TrainFlags(methods, str(tiny_recipe), device="cpu"), folder_dataset)
    return runs


def test_compare_has_a_row_and_a_difference_for_each_and_calls_none_unfair(kdbench, all_methods):
    flags = ["--backend", "torch", "--rounds", "10", "--threads", "1"]
    done = kdbench("compare", *flags, "--runs", all_methods)
    assert done.code == 0, done.err
    got = Comparison.read(all_methods / "folder" / "compare.json")
    methods = ["baseline", "response", "feature", "combined", "cwd", "dist", "baseline-long"]
    assert [row.method for row in got.rows] == methods
    assert [improvement.method for improvement in got.improvements] == methods[1:]
    assert not [note for note in got.notes if "fair" in note]
    assert (
        "baseline-long: the baseline with 4 epochs, which fit in the time of response's 2 "
        "(2.00 times the baseline's seconds per step)"
    ) in got.notes
    for text in (as_text(got), as_markdown(got)):
        for title in ("Channel-Wise (CWD)", "Relations (DIST)", "Baseline, Time-Matched"):
            assert text.count(title) == 2  # its row, and its improvement
        assert "# Parameters" in text
        assert "GFLOP" in text
    header, first = as_csv(got).splitlines()[:2]
    cells = dict(zip(header.split(","), first.split(","), strict=True))
    assert (int(cells["params"]), float(cells["gflops"])) == (got.rows[0].params, got.rows[0].gflops)


@pytest.mark.parametrize(
    ("method", "changed", "named"),
    [
        ("baseline-long", {"epochs": 4}, []),
        ("baseline-long", {"epochs": 4, "lr": 0.5}, ["lr"]),
        ("cwd", {"epochs": 4}, ["epochs"]),
        ("cwd", {"cwd_weight": 9.0, "cwd_temperature": 1.0}, []),
        ("response", {"beta": 2.0, "temperature": 3.0, "kl_reduction": "batchmean", "alpha": 0.5}, ["alpha"]),
    ],
)
def test_what_may_differ_from_the_baselines_recipe(method, changed, named):
    """The epochs of the time-matched baseline alone, and what the baseline does not read."""
    recorded = Recipe().model_dump(mode="json")
    baseline = {"recipe": recorded, "train_images": 8}
    ours = {"recipe": {**recorded, **changed}, "train_images": 8}
    assert unfair_differences(method, ours, baseline, recorded) == named
    assert unfair_differences(method, {**ours, "train_images": 7}, baseline, recorded) == [*named, "train_images"]


def test_a_recipe_of_before_a_field_did_what_the_default_does():
    recorded = Recipe().model_dump(mode="json")
    now = {"recipe": recorded, "train_images": 8}
    before = {"recipe": {k: v for k, v in recorded.items() if k != "logit_adjustment"}, "train_images": 8}
    adjusted = {"recipe": {**recorded, "logit_adjustment": 0.5}, "train_images": 8}
    for ours, theirs, named in [
        (now, before, []), (before, now, []),
        (adjusted, before, ["logit_adjustment"]), (before, adjusted, ["logit_adjustment"]),
    ]:  # fmt: skip
        assert unfair_differences("dist", ours, theirs, recorded) == named


def test_plots_draw_every_method_with_its_terms(kdbench, all_methods):
    from kdbench.report.plots import make_figures

    methods = ("cwd", "dist", "baseline-long")
    figures, notes = make_figures(RunTree(all_methods, "folder"), methods)
    assert notes == []
    axes = figures["losses"].axes
    legends = [[line.get_label() for line in panel.get_lines()] for panel in axes]
    assert legends == [["total", "cross-entropy", term] for term in ("channel-wise", "relations")] + [
        ["total", "cross-entropy"]
    ]
    assert axes[0].get_title() == "cwd\ntotal = 1 · CE + 3 · channel-wise"
    assert axes[0].get_ylabel() == "training loss"
    for panel, method in zip(axes, methods, strict=True):
        for line, key in zip(panel.get_lines(), ("loss", "ce", method), strict=False):
            assert list(line.get_ydata()) == [row[key] for row in history(all_methods, method)]
    done = kdbench("plot", "--method", "all", "--runs", all_methods)
    assert (done.code, len(done.out.splitlines())) == (0, 8)
