"""What docs/measured.md and README.md show of the label study beside distillation: ImageNet weights, and CutMix.

Every function takes the repository's root and the paths of its files below it, and returns Markdown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.label_tables import MADE_BY, gain, machine, mean, size_text
from kdbench.comparison import markdown
from kdbench.comparison.numbers import NOTHING, difference, fraction
from kdbench.methods.base import title_of
from kdbench.runs.files import read_json

IMAGENET, SCRATCH, BUILT_IN = "all-lite0-views", "all-lite0-scratch-views", "all"
WITH_CUTMIX, PLAIN = "all-cutmix-views", "all"
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
        for row in rows_of(reports[setting], setting, ("baseline", DISTILLED))
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
        rows_of(reports[setting], setting, ("baseline",))[0]["test"]["miou"]
        for setting in (BUILT_IN, SCRATCH, IMAGENET)
    )
    taught = rows_of(reports[IMAGENET], IMAGENET, (DISTILLED,))[0]
    return (
        f"On test, ImageNet weights are worth {difference(imagenet - scratch)} to the same network, which from scratch "
        f"is {difference(scratch - built_in)} from the built-in student; a teacher changes them by "
        f"{gain(taught['test'])}, and by {gain(taught['val'])} on validation."
    )


def weights_sentence(root: Path, on_cpu: Path, results: Path, front: Path) -> str:
    """README's: which helps more, a teacher or weights, and what the larger network costs."""
    reports = {IMAGENET: read_json(root / on_cpu, MADE_BY), BUILT_IN: read_json(root / results, MADE_BY)}
    measured = read_json(root / front, "python -m benchmarks.student_front")
    built_in = rows_of(reports[BUILT_IN], BUILT_IN, ("baseline",))[0]["test"]
    imagenet = rows_of(reports[IMAGENET], IMAGENET, ("baseline",))[0]["test"]
    taught = rows_of(reports[IMAGENET], IMAGENET, (DISTILLED,))[0]
    times = [over_yardstick(measured, model, "onnx", "fp32") for model in ("student", "student_lite0")]
    return (
        "**Weights before a teacher.** ImageNet weights add more than any teacher here: with them, all labels and no "
        f"teacher `student_lite0` has {mean(imagenet)} on test, the built-in student from scratch {mean(built_in)}, in "
        f"{times[0] / times[1]:.2f} of the latency (ONNX Runtime, fp32). A teacher changes the former by "
        f"{gain(taught['test'])} on test and {gain(taught['val'])} on validation "
        "([what was measured](docs/measured.md#imagenet-weights-or-a-teacher)).\n"
    )


def cutmix_table(root: Path, on_cpu: Path, results: Path) -> str:
    """Students with CutMix in every arm, beside those without it."""
    reports = {WITH_CUTMIX: read_json(root / on_cpu, MADE_BY), PLAIN: read_json(root / results, MADE_BY)}
    header = ["images", "method", "seeds", "test", "over its baseline", "validation", "over its baseline"]
    mixed = rows_of(reports[WITH_CUTMIX], WITH_CUTMIX)
    methods = tuple(row["method"] for row in mixed)
    cells = [
        [
            label, title_of(row["method"]), str(len(row["seeds"])), mean(row["test"]), gain(row["test"]),
            mean(row["val"]), gain(row["val"]),
        ]
        for label, rows in (("augmented", rows_of(reports[PLAIN], PLAIN, methods)), ("and CutMix", mixed))
        for row in rows
    ]  # fmt: skip
    first = first_of(reports[WITH_CUTMIX], WITH_CUTMIX)
    recipe = first["recipe"]
    teacher = next((entry for entry in reports[WITH_CUTMIX]["entries"] if is_run(entry, WITH_CUTMIX, "teacher")), None)
    said = NOTHING if teacher is None else f"{fraction(teacher['test']['miou'])} on test"
    return (
        f"{markdown.table(header, cells, words=2)}\n\n"
        f"All labels, {first['steps']:,} steps of {recipe['batch_size']} images; with CutMix half of the images hold a "
        f"rectangle of another one, the baseline's too, from {recipe['views']} views of each image made once, on "
        f"{machine(first)} (`{on_cpu.as_posix()}`); its teacher, {said}, learnt without it. Without CutMix on "
        f"{machine(first_of(reports[PLAIN], PLAIN))} (`{results.as_posix()}`).\n"
    )


def rows_of(report: Report, setting: str, methods: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """A setting's students, those of ``methods`` where any are named."""
    return [
        row
        for row in report["rows"]
        if row["setting"] == setting and row["method"] != "teacher" and (methods is None or row["method"] in methods)
    ]


def first_of(report: Report, setting: str) -> dict[str, Any]:
    """The first training of a setting's students."""
    entry: dict[str, Any] = next(e for e in report["entries"] if e["setting"] == setting and e["method"] != "teacher")
    return entry


def is_run(entry: dict[str, Any], setting: str, method: str) -> bool:
    return (entry["setting"], entry["method"]) == (setting, method)


def over_yardstick(measured: Report, model: str, backend: str, precision: str) -> float:
    """Latency over that of the yardstick."""
    which = (model, backend, precision)
    row = next(row for row in measured["rows"] if (row["model"], row["backend"], row["precision"]) == which)
    ratio: float = row["over_yardstick"][0]
    return ratio


def latency(measured: Report, model: str, backend: str, precision: str) -> str:
    return f"{over_yardstick(measured, model, backend, precision):.2f}"
