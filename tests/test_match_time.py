"""``kdbench train --match-time``: every method in the wall-clock of the slowest, in a variant of its own."""

from __future__ import annotations

import json
import shutil

import pytest

from kdbench.comparison.fairness import time_notes, unfair_differences
from kdbench.comparison.results import Comparison
from kdbench.comparison.tables import as_markdown, as_text
from kdbench.runs.tree import RunTree
from tests.exports import read_unsealed
from trainers.recipe import Recipe, load_recipe, variant_name
from trainers.time_match import Stage, equal_time

SECONDS = {"baseline": 10.0, "response": 14.0, "feature": 20.0, "combined": 31.0}
"""Of an epoch: 3.1, 2.2, 1.55 and 1 times fit in the slowest's, so that of its 2 epochs the others have 6, 4 and 3."""


@pytest.fixture(scope="module")
def timed(trained_runs, tmp_path_factory):
    """The standard four, trained side by side for 2 epochs, with seconds that a machine might have measured."""
    runs = shutil.copytree(trained_runs, tmp_path_factory.mktemp("timed") / "runs")
    for method, seconds in SECONDS.items():
        path = runs / "folder" / method / "history.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        path.write_text("".join(json.dumps({**row, "seconds": seconds * row["epoch"]}) + "\n" for row in rows))
    return runs


@pytest.fixture
def runs(timed, tmp_path):
    return shutil.copytree(timed, tmp_path / "runs")


@pytest.fixture(scope="module")
def matched(timed, tmp_path_factory, folder_dataset, tiny_recipe):
    """All four, for the same steps and in the same time."""
    from kdbench.cli.training import TrainFlags, run_training

    runs = shutil.copytree(timed, tmp_path_factory.mktemp("matched") / "runs")
    flags = TrainFlags((*SECONDS, "teacher"), str(tiny_recipe), device="cpu", match_time=True)
    run_training(RunTree(runs, "folder"), flags, folder_dataset)
    return runs


def sidecar(runs, method, variant="matched=time"):
    return json.loads((runs / "folder" / variant / method / "student.json").read_text(encoding="utf-8"))


def recorded(runs):
    return Recipe.model_validate(sidecar(runs, "baseline", "")["recipe"])


def test_epochs_are_those_that_fit_in_the_slowests(runs):
    recipe, stages = equal_time(RunTree(runs, "folder"), recorded(runs), tuple(SECONDS), "cpu")
    assert recipe == recorded(runs)
    about = {"method": "combined", "epochs": 2, "seeds": [0]}
    assert stages == [
        Stage((method,), epochs, {method: {**about, "ratio": ratio}})
        for method, epochs, ratio in (
            ("baseline", 6, 3.1), ("response", 4, 2.2143), ("feature", 3, 1.55), ("combined", 2, 1.0)
        )
    ]  # fmt: skip
    # 10 epochs: 31, 22, 15 and 10, rounded down.
    folder = RunTree(runs, "folder")
    for path in (runs / "folder").glob("*/student.json"):
        document = read_unsealed(path)
        document["recipe"]["epochs"] = 10
        path.write_text(json.dumps(document))
    _, stages = equal_time(folder, recorded(runs), tuple(SECONDS), "cpu")
    assert [stage.epochs for stage in stages] == [31, 22, 15, 10]


def test_the_slowest_counts_though_it_is_not_asked_for_and_equal_epochs_are_side_by_side(runs):
    """So that a variant's methods have one time, in however many calls they are trained."""
    tree, recipe = RunTree(runs, "folder"), recorded(runs)
    _, (stage,) = equal_time(tree, recipe, ("baseline",), "cpu")
    assert (stage.epochs, stage.matched["baseline"]["method"]) == (6, "combined")
    path = runs / "folder" / "feature" / "history.jsonl"
    shutil.copy(runs / "folder" / "response" / "history.jsonl", path)
    _, stages = equal_time(tree, recipe, ("feature", "baseline", "response"), "cpu")
    assert [(stage.methods, stage.epochs) for stage in stages] == [(("feature", "response"), 4), (("baseline",), 6)]


def test_auto_takes_the_precision_whose_seconds_were_measured(runs):
    asked = recorded(runs).model_copy(update={"precision": "auto", "teacher_precision": "auto"})
    recipe, _ = equal_time(RunTree(runs, "folder"), asked, ("baseline",), "cpu")
    assert (recipe.precision, recipe.teacher_precision) == ("fp32", "fp32")


def test_the_variant_is_its_own_and_the_teacher_is_shared(matched, timed, tiny_recipe, tmp_path):
    root = matched / "folder"
    assert {path.parent.name for path in root.glob("matched=time/*/student.safetensors")} == set(SECONDS)
    assert not [*root.glob("matched=time/teacher*")]
    for method, epochs in zip(SECONDS, (6, 4, 3, 2), strict=True):
        about = sidecar(matched, method)
        assert (about["epochs"], about["recipe"]["epochs"], about["epoch"]) == (epochs, epochs, epochs)
        assert about["variant"] == "matched=time"
        assert about["time_matched"]["ratio"] == pytest.approx(31 / SECONDS[method], abs=1e-4)
        own = (root / method / "student.safetensors").read_bytes()
        assert own == (timed / "folder" / method / "student.safetensors").read_bytes()
        # The slowest keeps its epochs: it is the same training, bit for bit.
        assert ((root / "matched=time" / method / "student.safetensors").read_bytes() == own) == (epochs == 2)
    teacher = json.loads((root / "teacher" / "teacher.json").read_text())
    assert teacher == json.loads((timed / "folder" / "teacher" / "teacher.json").read_text())
    assert sidecar(matched, "response")["teacher"]["sha256"] == teacher["sha256"]
    share = load_recipe(str(tiny_recipe), {"labelled": 0.25})
    name = variant_name("folder", share, match_time=True)
    assert name == "labelled=0.25+matched=time"
    assert RunTree(tmp_path, "folder", name).method_dir("teacher") == tmp_path / "folder" / "labelled=0.25" / "teacher"


def test_it_resumes_repeats_and_asks_before_it_trains_over_a_finished_one(kdbench, matched, tiny_arguments, tmp_path):
    runs = shutil.copytree(matched, tmp_path / "runs")
    command = ("train", "--method", "baseline,response", "--match-time", *tiny_arguments, "--runs", runs, "--resume")
    files = sorted((runs / "folder").rglob("student.safetensors"))
    assert len(files) == 8
    before = [path.stat().st_mtime_ns for path in files]
    done = kdbench(*command)
    assert done.code == 0, done.err
    assert "response seed 0: mIoU" in done.out
    assert "4 epochs in the time of combined's 2" in done.out
    assert [path.stat().st_mtime_ns for path in files] == before
    again = kdbench("train", "--from", runs / "folder/matched=time/feature/student.json", "--runs", tmp_path / "again")
    assert again.code == 0, again.err
    assert "the same weights as" in again.out
    assert sidecar(tmp_path / "again", "feature")["time_matched"] == sidecar(runs, "feature")["time_matched"]

    # Other seconds, other epochs: what is finished is not lost without a word.
    history = runs / "folder" / "combined" / "history.jsonl"
    history.write_text(history.read_text().replace("62.0", "82.0"))  # the median of 3.1 and 5.1 fits 8 times
    refused = kdbench(*command)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "was finished with other epochs 6 → 8: add --overwrite to train it anew" in refused.err
    assert [path.stat().st_mtime_ns for path in files] == before


def test_beside_another_difference_by_real_seconds(kdbench, tiny_arguments, tmp_path):
    """On half of the labels: the variant has both parts, and its teacher learnt from the same labels."""
    command = ("train", "--method", "teacher,baseline,response", *tiny_arguments, "--runs", tmp_path, "--labelled", 0.5)
    for flags in ((), ("--match-time",)):
        done = kdbench(*command, *flags)
        assert done.code == 0, done.err
    root = tmp_path / "folder"
    assert sorted(path.parent.relative_to(root).as_posix() for path in root.rglob("*.safetensors")) == [
        "labelled=0.5+matched=time/baseline", "labelled=0.5+matched=time/response",
        "labelled=0.5/baseline", "labelled=0.5/response", "labelled=0.5/teacher",
    ]  # fmt: skip
    ours = {method: sidecar(tmp_path, method, "labelled=0.5+matched=time") for method in ("baseline", "response")}
    assert {about["variant"] for about in ours.values()} == {"labelled=0.5+matched=time"}
    for about in ours.values():
        ratio = about["time_matched"]["ratio"]  # four digits of it
        assert about["epochs"] in {max(2, int(2 * (ratio + rounded))) for rounded in (-1e-4, 1e-4)}
    slowest = {about["time_matched"]["method"] for about in ours.values()}
    assert len(slowest) == 1
    assert ours[slowest.pop()]["epochs"] == 2


def test_resume_with_other_epochs_asks_for_overwrite_in_a_variant_too(kdbench, tiny_arguments, tmp_path):
    command = ("train", "--method", "baseline", *tiny_arguments, "--runs", tmp_path, "--labelled", 0.5, "--resume")
    assert kdbench(*command, "--epochs", 1).code == 0
    checkpoint = tmp_path / "folder" / "labelled=0.5" / "baseline" / "student.safetensors"
    before = checkpoint.read_bytes()
    refused = kdbench(*command, "--epochs", 2)
    assert (refused.code, refused.err.splitlines()[-1]) == (
        2, f"kdbench: --resume: '{checkpoint}' was finished with other epochs 1 → 2: add --overwrite to train it anew, "
        "or name another --runs",
    )  # fmt: skip
    assert checkpoint.read_bytes() == before
    assert kdbench(*command, "--epochs", 2, "--overwrite").code == 0
    assert checkpoint.read_bytes() != before


def test_compare_shows_both_and_pairs_within_the_variant(kdbench, matched):
    done = kdbench("compare", "--backend", "torch", "--rounds", 10, "--threads", 1, "--runs", matched)
    assert done.code == 0, done.err
    got = Comparison.read(matched / "folder" / "compare.json")
    assert [(row.variant, row.method, row.status) for row in got.rows] == [
        (variant, method, "ok") for variant in (None, "matched=time") for method in SECONDS
    ]
    scores = {(row.variant, row.method): row.miou for row in got.rows}
    gains = {(gain.variant, gain.method): gain.delta_miou for gain in got.improvements}
    assert gains == {
        (variant, method): pytest.approx(scores[variant, method] - scores[variant, "baseline"], abs=1e-12)
        for variant in (None, "matched=time")
        for method in ("response", "feature", "combined")
    }
    assert scores[None, "baseline"] != scores["matched=time", "baseline"]
    assert not [note for note in got.notes if "fair" in note]
    seconds = [sidecar(matched, method)["train_seconds"] for method in SECONDS]
    (said,) = [note for note in got.notes if note.startswith("matched=time: ")]
    assert said == (
        "matched=time: these rows had the same wall-clock, that of combined in 2 epochs, and not the same steps: "
        f"baseline 6 epochs, {seconds[0]:,.1f} s; response 4 epochs, {seconds[1]:,.1f} s; "
        f"feature 3 epochs, {seconds[2]:,.1f} s; combined 2 epochs, {seconds[3]:,.1f} s"
    )
    assert all(f"Note: {said}." in text for text in (as_text(got), as_markdown(got)))
    assert got.training["matched=time/baseline"]["epochs"] == 6


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"epochs": 4}, []), ({"epochs": 4, "lr": 0.5}, ["lr"]), (None, ["matched time"])],
)
def test_what_methods_of_one_time_must_share(changed, named):
    fields, time = Recipe().model_dump(mode="json"), {"method": "dist", "epochs": 30}
    baseline = {"recipe": {**fields, "epochs": 40}, "train_images": 8, "time_matched": {**time, "ratio": 1.4}}
    other = {"method": "cwd"} if changed is None else {}
    ours = {"recipe": {**fields, **(changed or {})}, "train_images": 8, "time_matched": {**time, **other, "ratio": 1.1}}
    assert unfair_differences("response", ours, baseline, fields) == named
    # Beside a baseline of the same steps, other epochs are no fair comparison.
    del baseline["time_matched"]
    assert "epochs" in unfair_differences("response", ours, baseline, fields)


def test_no_sentence_without_such_rows_nor_of_baseline_long():
    about = {"time_matched": {"method": "dist", "epochs": 30}, "epochs": 40, "train_seconds": 1.0}
    assert time_notes({"baseline": {"epochs": 40}, "baseline-long": about}) == []
    assert len(time_notes({"a=b+matched=time/baseline": about, "matched=time/cwd": about, "cwd": {}})) == 2


DO_IT = (
    "run the same command without --match-time first, `kdbench train --method baseline,response --dataset folder` "
    "with your flags"
)


def test_without_the_same_steps_it_says_what_to_train(kdbench, runs, tiny_arguments):
    command = ("train", "--method", "baseline,response", "--match-time", *tiny_arguments, "--runs", runs)
    path = runs / "folder" / "response" / "student.json"
    document = read_unsealed(path)
    path.write_text(json.dumps({**document, "environment": {**document["environment"], "time": "2020-01-01T00:00"}}))
    done = kdbench(*command)
    assert (done.code, done.err) == (
        2, "kdbench: --match-time: baseline, response were not trained side by side, so that their seconds could be "
        f"compared: {DO_IT}\n",
    )  # fmt: skip
    shutil.rmtree(path.parent)
    done = kdbench(*command)
    assert (done.code, done.err) == (
        2, "kdbench: --match-time: no response, trained for the same steps, in "
        f"'{path.parent}': {DO_IT}\n",
    )  # fmt: skip
    assert not (runs / "folder" / "matched=time").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "baseline", "--epochs", "3"], "another recipe (epochs 2 → 3): give its flags"),
        (["--method", "baseline-long"], "got --method baseline-long as well: take baseline"),
        (["--method", "baseline", "--match", "cwd"], "got --match cwd as well: leave it out"),
        (["--method", "teacher"], "got --method teacher, expected students, as baseline,response"),
    ],
)
def test_what_does_not_go_with_it(kdbench, runs, tiny_arguments, flags, message):
    done = kdbench("train", "--match-time", *flags, *tiny_arguments, "--runs", runs)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert done.err.startswith("kdbench: --match-time")
    assert done.err.endswith(f"{message}\n")


def test_seconds_of_another_device_do_not_count(runs):
    from kdbench.errors import BadInput

    with pytest.raises(BadInput, match="were measured on cpu, got --device cuda: give --device cpu, or run the same"):
        equal_time(RunTree(runs, "folder"), recorded(runs), ("baseline", "response"), "cuda")
