"""What README.md and the pages show of the label study: gains by number of labels, the same students in every engine,
and what training them took.

Every function takes the repository's root and the paths of its files below it, and returns Markdown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.label_scores import BY_LABELS, BY_LABELS_ON_VIEWS
from kdbench.comparison import markdown
from kdbench.comparison.columns import agreement
from kdbench.comparison.numbers import NOTHING, counted, difference, fraction, plus_minus
from kdbench.comparison.results import Comparison
from kdbench.methods.base import title_of
from kdbench.runs.files import read_json

MADE_BY = "python -m benchmarks.label_study --score"
GUIDE = ("baseline", "response", "feature")
"""The rows that the README has in any case; the best other method comes after them."""
NEW_DRIVE = "Seq05VD"
"""CamVid's drive that is in test alone."""
KINDS = {"baseline": "the baseline", "teacher": "the teacher"}
HOUR, MINUTE = 3600, 60


def labels_table(root: Path, results: Path, settings: tuple[str, ...] = BY_LABELS) -> str:
    """A row for each number of labels and method, of test and validation, with test's drives apart."""
    report = read_json(root / results, MADE_BY)
    rows = sorted(students(report, settings), key=lambda row: row["labelled"])
    drives = list(rows[0]["by_drive"]["test"])
    header = ["labels", "method", "seeds", "test", "over the baseline", *drives, "validation", "over the baseline"]
    cells = [
        [
            str(row["labelled"]), title_of(row["method"]), str(len(row["seeds"])), mean(row["test"]), gain(row["test"]),
            *(gain(row["by_drive"]["test"][drive]) for drive in drives), mean(row["val"]), gain(row["val"]),
        ]
        for row in rows
    ]  # fmt: skip
    entries = [entry for entry in report["entries"] if entry["setting"] in settings]
    first = entries[0]
    recipe = first["recipe"]
    taught = "; ".join(
        f"the teacher of {one['labelled']} labels has {fraction(one['test']['miou'])} on test and "
        f"{fraction(one['val']['miou'])} on validation"
        for one in entries
        if one["method"] == "teacher"
    )
    views = f" from {recipe['views']} views of each image that are made once" if recipe.get("views") else ""
    return (
        f"{markdown.table(header, cells)}\n\n"
        "± is the standard error over seeds, of differences that of pairs; a gain or a loss is more than two of them. "
        f"Students of {size_text(recipe['size'])}, {first['steps']:,} steps of {recipe['batch_size']} images{views}; "
        f"the teacher {recipe['teacher']['arch']} sees {size_text(recipe['teacher']['size'])} and learns from "
        f"the same labels, the images without theirs serve distilled students alone; {taught}. "
        f"On {machine(first)}, `python -m benchmarks.label_study`; every run is in `{results.as_posix()}`.\n"
    )


def labels_on_views_table(root: Path, results: Path, more: Path) -> str:
    """The same of the settings whose views are made once, and how many labels their teachers are worth.

    Args:
        more: of the settings with more labels.
    """
    rows = students(read_json(root / results, MADE_BY), BY_LABELS_ON_VIEWS)
    baselines = [row for row in (*rows, *students(read_json(root / more, MADE_BY))) if row["method"] == "baseline"]
    worth = []
    for row in sorted(rows, key=lambda row: row["labelled"]):
        reached = [
            other
            for other in baselines
            if other["labelled"] > row["labelled"] and other["test"]["miou"] <= row["test"]["miou"]
        ]
        if row["method"] != "baseline" and reached:
            most = max(reached, key=lambda other: other["labelled"])
            worth.append(
                f"{row['labelled']} labels and {title_of(row['method'])} give {fraction(row['test']['miou'])} on test, "
                f"{most['labelled']} labels without a teacher {fraction(most['test']['miou'])}"
            )
    return f"{labels_table(root, results, BY_LABELS_ON_VIEWS)}\nIn labels: {'; '.join(worth) or 'no more'}.\n"


def folds_table(root: Path, results: Path) -> str:
    """A row for each method that was trained without a drive and scored on it, each drive in turn."""
    report = read_json(root / results, MADE_BY)
    folds = [row for row in report["rows"] if "new_scenes" in row]
    rows = [row for row in folds if row["method"] != "teacher"]
    drives = list(rows[0]["by_drive"]["new_scenes"])
    header = ["method", "folds x seeds", "new scenes", "over the baseline", *(f"without {drive}" for drive in drives)]
    cells = [
        [
            title_of(row["method"]), str(len(row["new_scenes"]["values"])), mean(row["new_scenes"]),
            gain(row["new_scenes"]), *(of_drive(row, drive) for drive in drives),
        ]
        for row in rows
    ]  # fmt: skip
    entries = [entry for entry in report["entries"] if "new_scenes" in entry]
    recipe = entries[0]["recipe"]
    taught = ", ".join(
        f"{fraction(entry['new_scenes']['miou'])} on {next(iter(entry['new_scenes']['by_drive']))}"
        for entry in entries
        if entry["method"] == "teacher"
    )
    return (
        f"{markdown.table(header, cells)}\n\n"
        f"A quarter of the labels, students of {size_text(recipe['size'])}, {recipe['epochs']} epochs of "
        f"{recipe['views']} views made once; the teacher {recipe['teacher']['arch']} sees "
        f"{size_text(recipe['teacher']['size'])}, never learns from the drive that is held out, and has {taught}. ± is "
        "the standard error over folds, of each one's mean over its seeds, of differences that of pairs. "
        f"On {machine(entries[0])}; every run is in `{results.as_posix()}`.\n"
    )


def of_drive(row: dict[str, Any], drive: str) -> str:
    """What a method has where a drive was held out, and over the baseline there."""
    found = row["by_drive"]["new_scenes"].get(drive)
    if found is None:
        return NOTHING
    over = "" if found["difference"] is None else f" ({difference(found['difference'])})"
    return f"{fraction(found['miou'])}{over}"


def teacher_size_table(root: Path, results: Path) -> str:
    """Students whose teacher sees what they see, beside those of one that sees more, of the same seeds."""
    report = read_json(root / results, MADE_BY)
    rows = [row for row in report["rows"] if "test" in row]
    small = [row for row in rows if row["setting"] == "quarter-teacher-180"]
    methods = [row["method"] for row in small]
    usual = [row for row in rows if row["setting"] == "quarter" and row["method"] in methods]
    header = ["the teacher sees", "method", "seeds", "test", "over the baseline", "validation", "over the baseline"]
    cells = []
    for row in (*small, *usual):
        recipe = next(entry["recipe"] for entry in report["entries"] if entry["setting"] == row["setting"])
        name = "the teacher itself" if row["method"] == "teacher" else title_of(row["method"])
        cells.append([
            size_text(recipe["teacher"]["size"] or recipe["size"]), name, str(len(row["seeds"])), mean(row["test"]),
            gain(row["test"]), mean(row["val"]), gain(row["val"]),
        ])  # fmt: skip
    return (
        f"{markdown.table(header, cells)}\n\n"
        f"{rows[0]['labelled']} labels, students of {size_text(report['entries'][0]['recipe']['size'])}, "
        f"on {machine(report['entries'][0])}; every run is in `{results.as_posix()}`.\n"
    )


def size_text(size: list[int]) -> str:
    return "x".join(map(str, size))


def machine(entry: dict[str, Any]) -> str:
    hardware = entry["environment"]["hardware"]
    return hardware["gpu"][0] if hardware["gpu"] else f"one thread of {hardware['cpu']}"


def students(report: dict[str, Any], settings: tuple[str, ...] = BY_LABELS) -> list[dict[str, Any]]:
    """Rows that differ in the number of labels and the method alone."""
    return [row for row in report["rows"] if row["setting"] in settings and row["method"] != "teacher"]


def mean(found: dict[str, Any]) -> str:
    return f"{fraction(found['miou'])}{plus_minus(found['standard_error'])}"


def gain(found: dict[str, Any]) -> str:
    """A paired difference, and its verdict where one is claimed."""
    if found["difference"] is None:
        return NOTHING
    verdict = "" if found["verdict"] == "no gain shown" else f" {found['verdict']}"
    return f"{difference(found['difference'])}{plus_minus(found['difference_standard_error'])}{verdict}"


def few_labels_table(root: Path, results: Path, engines: Path, fewer: Path) -> str:
    """README's: the guide's methods and the best other one at the fewest labels, and one training of each by engine.

    Args:
        engines: what ``kdbench compare`` measured of one training each.
        fewer: of the settings whose views are made once, for what the best method gains with fewer labels.
    """
    report = read_json(root / results, MADE_BY)
    fewest = min(row["labelled"] for row in students(report))
    rows = {row["method"]: row for row in students(report) if row["labelled"] == fewest}
    best = max((row for method, row in rows.items() if method not in GUIDE), key=lambda row: row["test"]["difference"])
    comparison = Comparison.read(root / engines)
    by_engine = {(row.method, row.backend, row.precision): row for row in comparison.rows}
    header = [
        "method", "test: mostly a new drive", "over the baseline", "validation: a known street", "over the baseline",
        "PyTorch", "ONNX", "its pixels as PyTorch's", "OpenVINO int8", "its pixels as PyTorch's",
    ]  # fmt: skip
    cells = []
    for method in (*GUIDE, best["method"]):
        row = rows[method]
        torch, onnx, int8 = (
            by_engine[method, *which] for which in (("torch", "fp32"), ("onnx", "fp32"), ("openvino", "int8"))
        )
        cells.append([
            title_of(method), mean(row["test"]), gain(row["test"]), mean(row["val"]), gain(row["val"]),
            fraction(torch.miou), fraction(onnx.miou), agreement(onnx), fraction(int8.miou), agreement(int8),
        ])  # fmt: skip
    everything = next(row for row in students(report) if row["labelled"] > fewest and row["method"] == "baseline")
    winners = [row for row in students(report) if row["labelled"] == fewest and row["test"]["verdict"] == "gain"]
    on_new = [row for row in winners if row["by_drive"]["test"][NEW_DRIVE]["verdict"] == "gain"]
    on_val = [row for row in students(report) if row["labelled"] == fewest and row["val"]["verdict"] == "gain"]
    trt = by_engine[best["method"], "trt", "fp32"]
    size = size_text(comparison.dataset["size"])
    drawn = "the engine was built, and runs on an NVIDIA GPU" if trt.status == "built" else f"{trt.status}"
    return (
        f"The same small student, trained with {fewest} of CamVid's {everything['labelled']} labels: alone, and taught "
        f"in {len(cells) - 1} of the {len(rows) - 1} ways that were measured. mIoU from 0 to 1, mean ± standard error "
        f"over {counted(len(best['seeds']), 'seed')}; a gain or a loss is more than two standard errors. The engines' "
        "columns are one further training each, on validation: its mIoU, and the share of pixels with PyTorch's class."
        "\n\n"
        f"{markdown.table(header, cells)}\n\n"
        f"{len(winners)} of {len(rows) - 1} ways to distil are better on test, and "
        f"{len(on_new)} of them on its new drive alone, which training never sees; with {title_of(best['method'])} the "
        f"student has {fraction(best['test']['miou'])}, without a teacher and with all {everything['labelled']} labels "
        f"{fraction(everything['test']['miou'])}. On validation, more frames of a street that training knows, "
        f"{len(on_val) or 'none'} of them are better: remembering pays there."
        f"{with_fewer(root / fewer, best['method'], fewest)}\n\n"
        f"CamVid at {size}. TensorRT: {drawn}. All methods, all labels and each drive: "
        "[what was measured](docs/measured.md).\n"
    )


def with_fewer(results: Path, method: str, fewest: int) -> str:
    """What a method gains with fewer labels, on test and on validation, in a sentence; "" where it was not measured."""
    rows = students(read_json(results, MADE_BY), BY_LABELS_ON_VIEWS)
    rows = [row for row in rows if row["method"] == method and row["labelled"] < fewest]
    said = [
        f"with {row['labelled']} labels {gain(row['test'])} on test and {gain(row['val'])} on validation"
        for row in sorted(rows, key=lambda row: -row["labelled"])
    ]
    if not said:
        return ""
    return f" The fewer the labels, the more a teacher is worth: {title_of(method)} has, {', '.join(said)}."


def label_hours(root: Path, results: Path, on_cpu: Path) -> str:
    """What the study's trainings took, on a GPU and on one thread of a processor."""
    gpu = read_json(root / results, MADE_BY)["entries"]
    lines = [json.loads(line) for line in (root / on_cpu).read_text(encoding="utf-8").splitlines()]
    cpu = [entry for entry in lines if entry["setting"] == gpu[-1]["setting"]]
    first = gpu[0]
    steps, recipe = first["steps"], first["recipe"]
    size, view = (size_text(size) for size in (recipe["size"], recipe["teacher"]["size"]))
    return (
        f"On CamVid, {size}, {steps:,} steps of {recipe['batch_size']} images, a teacher that sees {view}: "
        f"{took(cpu, HOUR, 'hours')}; {took(gpu, MINUTE, 'minutes')}. A distilled student's time holds its teacher's "
        "passes, which those that are trained side by side share. Three recordings and three seeds are nine times "
        "that, and three teachers.\n"
    )


def took(entries: list[dict[str, Any]], unit: int, name: str) -> str:
    seconds: dict[str, list[float]] = {}
    for entry in entries:
        seconds.setdefault(KINDS.get(entry["method"], "a distilled student"), []).append(entry["train_seconds"])
    spans = {kind: dict.fromkeys(f"{of(values) / unit:.1f}" for of in (min, max)) for kind, values in seconds.items()}
    listed = [f"{kind} {' to '.join(span)}" for kind, span in spans.items()]
    return f"{', '.join(listed)} {name} on {machine(entries[0])}"
