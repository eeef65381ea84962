"""What docs/measured.md and README.md show of the label study beside distillation: ImageNet weights, and CutMix.

Every function takes the repository's root and the paths of its files below it, and returns Markdown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.label_tables import MADE_BY, gain, machine, mean, size_text, students
from kdbench.comparison import markdown
from kdbench.comparison.numbers import difference, fraction
from kdbench.methods.base import title_of
from kdbench.runs.files import read_json

BUILT_IN, SCRATCH, IMAGENET = "all", "all-lite0-scratch-views", "all-lite0-views"
WITH_CUTMIX = "all-cutmix-views"
DISTILLED = "dist"
"""The method whose gain stands beside that of weights."""

Report = dict[str, Any]


def weights_table(root: Path, on_cpu: Path, results: Path, front: Path) -> str:
    """The built-in student and `student_lite0`, from scratch and from ImageNet weights, without and with a teacher.

    Args:
        on_cpu: where `student_lite0` was trained.
        results: where the built-in student was.
        front: latencies of both.
    """
    reports = {IMAGENET: read_json(root / on_cpu, MADE_BY), BUILT_IN: read_json(root / results, MADE_BY)}
    reports[SCRATCH] = reports[IMAGENET]
    shown = [
        (setting, row)
        for setting in (BUILT_IN, SCRATCH, IMAGENET)
        for method, row in rows_of(reports[setting], setting).items()
        if method in ("baseline", DISTILLED)
    ]
    header = [
        "student", "starts from", "method", "steps", "seeds", "test", "over its baseline", "validation",
        "over its baseline", "ONNX fp32", "OpenVINO int8",
    ]  # fmt: skip
    measured = read_json(root / front, "python -m benchmarks.student_front")
    cells = []
    for setting, row in shown:
        first = first_of(reports[setting], setting)
        student = first["recipe"]["student"]
        name = student if isinstance(student, str) else student["arch"]
        weights = None if isinstance(student, str) else student.get("weights")
        cells.append([
            f"`{name}`", "ImageNet weights" if weights else "scratch", title_of(row["method"]), f"{first['steps']:,}",
            str(len(row["seeds"])), mean(row["test"]), gain(row["test"]), mean(row["val"]), gain(row["val"]),
            latency(measured, name, "onnx", "fp32"), latency(measured, name, "openvino", "int8"),
        ])  # fmt: skip
    first, other = (first_of(reports[setting], setting) for setting in (IMAGENET, BUILT_IN))
    return (
        f"{markdown.table(header, cells, words=3)}\n\n"
        f"{in_words(reports)} All labels, images of {size_text(first['recipe']['size'])}, ± the standard error over "
        "seeds; the last two columns are latency over that of `lraspp_mobilenet_v3_large` in ONNX fp32, at "
        f"{measured['size']} (`{front.as_posix()}`). `student_lite0` on {machine(first)}, {first['recipe']['views']} "
        f"views of each image (`{on_cpu.as_posix()}`), the built-in student on {machine(other)} "
        f"(`{results.as_posix()}`).\n"
    )


def in_words(reports: dict[str, Report]) -> str:
    """What weights, the network and distillation are worth on test, each in a clause."""
    built_in, scratch, imagenet = (
        rows_of(reports[setting], setting)["baseline"]["test"]["miou"] for setting in (BUILT_IN, SCRATCH, IMAGENET)
    )
    taught = rows_of(reports[IMAGENET], IMAGENET)[DISTILLED]
    return (
        f"On test, ImageNet weights are worth {difference(imagenet - scratch)} to the same network, which from scratch "
        f"is {difference(scratch - built_in)} from the built-in student; a teacher changes them by "
        f"{gain(taught['test'])}, and by {gain(taught['val'])} on validation."
    )


def weights_sentence(root: Path, on_cpu: Path, results: Path, front: Path) -> str:
    """README's: which helps more, a teacher or weights, and what the larger network costs."""
    imagenet = rows_of(read_json(root / on_cpu, MADE_BY), IMAGENET)
    built_in = rows_of(read_json(root / results, MADE_BY), BUILT_IN)
    measured = read_json(root / front, "python -m benchmarks.student_front")
    times = [over_yardstick(measured, model, "onnx", "fp32") for model in ("student", "student_lite0")]
    return (
        "**Weights before a teacher.** With all labels, ImageNet weights add more than any teacher: `student_lite0` "
        f"has {mean(imagenet['baseline']['test'])} on test with them and without a teacher, the built-in student from "
        f"scratch {mean(built_in['baseline']['test'])}, in {times[0] / times[1]:.2f} of the latency (ONNX Runtime, "
        f"fp32). A teacher changes the former by {gain(imagenet[DISTILLED]['test'])} on test and "
        f"{gain(imagenet[DISTILLED]['val'])} on validation "
        "([what was measured](docs/measured.md#imagenet-weights-or-a-teacher)).\n"
    )


def cutmix_table(root: Path, on_cpu: Path, results: Path) -> str:
    """Students with CutMix in every arm, beside those without it."""
    report, without = read_json(root / on_cpu, MADE_BY), read_json(root / results, MADE_BY)
    mixed, plain = rows_of(report, WITH_CUTMIX), rows_of(without, BUILT_IN)
    header = ["images", "method", "seeds", "test", "over its baseline", "validation", "over its baseline"]
    cells = [
        [
            label, title_of(method), str(len(row["seeds"])), mean(row["test"]), gain(row["test"]),
            mean(row["val"]), gain(row["val"]),
        ]
        for label, rows in (("augmented", plain), ("and CutMix", mixed))
        for method, row in rows.items()
        if method in mixed
    ]  # fmt: skip
    first = first_of(report, WITH_CUTMIX)
    recipe = first["recipe"]
    taught_by = next(row for row in report["rows"] if (row["setting"], row["method"]) == (WITH_CUTMIX, "teacher"))
    return (
        f"{markdown.table(header, cells, words=2)}\n\n"
        f"All labels, {first['steps']:,} steps of {recipe['batch_size']} images; with CutMix half of the images hold a "
        f"rectangle of another one, the baseline's too, from {recipe['views']} views of each image made once, on "
        f"{machine(first)} (`{on_cpu.as_posix()}`); its teacher, {fraction(taught_by['test']['miou'])} on test, "
        f"learnt without it. Without CutMix on "
        f"{machine(first_of(without, BUILT_IN))} (`{results.as_posix()}`).\n"
    )


def rows_of(report: Report, setting: str) -> dict[str, dict[str, Any]]:
    """A setting's students: method → row."""
    return {row["method"]: row for row in students(report, (setting,))}


def first_of(report: Report, setting: str) -> dict[str, Any]:
    """The first training of a setting's students."""
    entry: dict[str, Any] = next(e for e in report["entries"] if e["setting"] == setting and e["method"] != "teacher")
    return entry


def over_yardstick(measured: Report, model: str, backend: str, precision: str) -> float:
    """Latency over that of the yardstick."""
    which = (model, backend, precision)
    row = next(row for row in measured["rows"] if (row["model"], row["backend"], row["precision"]) == which)
    ratio: float = row["over_yardstick"][0]
    return ratio


def latency(measured: Report, model: str, backend: str, precision: str) -> str:
    return f"{over_yardstick(measured, model, backend, precision):.2f}"
