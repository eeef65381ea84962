"""Sentences that follow from the numbers, and claim no more than they show."""

from __future__ import annotations

import math

from kdbench.backends import runs_checkpoints
from kdbench.comparison.fairness import KD_LEAD
from kdbench.comparison.numbers import counted, fraction
from kdbench.comparison.results import Comparison, Improvement, Row, Split
from kdbench.methods.base import title_of
from kdbench.report.evidence import Evidence

NEW_SCENES = (
    "New scenes are recordings that training has not seen: each was held out in turn, of the teacher too. Validation "
    "images of a recording that training knows reward remembering it, so where the two differ, new scenes say what to "
    "expect elsewhere."
)
WHERE: dict[Split, str] = {"val": "", "new_scenes": " on new scenes", "test": " on the test split"}


def analysis(found: Evidence) -> list[str]:
    """One sentence or two per finding, in the order in which a reader asks."""
    comparison = found.comparison
    if comparison is None:
        return [found.gaps["comparison"]]
    sentences = [gain_sentence(gain) for gain in comparison.improvements]
    if not comparison.improvements:
        sentences.append(
            "No method was compared with a baseline of the same seeds, so nothing is said of what distillation gains: "
            "train both with `kdbench train --method baseline,response --seeds 0,1,2`."
        )
    if comparison.improvements_on("new_scenes"):
        sentences.append(NEW_SCENES)
    sentences += teacher_sentence(comparison)
    sentences += speed_sentences(comparison)
    sentences += agreement_sentences(comparison)
    missing = [row for row in comparison.rows if row.status != "ok"]
    if missing:
        sentences.append(
            f"{len(missing)} of {len(comparison.rows)} rows have no measurement on this machine; the reasons are "
            "listed below, and nothing is inferred for them."
        )
    return sentences


def gain_sentence(gain: Improvement) -> str:
    """What a method is shown to do to mIoU."""
    name, points, error = title_of(gain.run), 100 * gain.delta_miou, 100 * gain.standard_error
    where = WHERE[gain.on]
    against = f"{name}{where}: {points:+.2f} points of mIoU against the baseline's {fraction(gain.baseline_miou)}"
    if gain.standard_error_over == "images":
        return (
            f"{against}, {counted(gain.seeds, 'training')} each (± {error:.2f} over images alone). The spread between "
            "trainings is unknown, so no gain is claimed: train with --seeds 0,1,2."
        )
    paired = f"{against}, ± {error:.2f} standard error over {gain.trainings.replace('seed', 'paired seed')}"
    if (gain.seeds if gain.folds is None else gain.folds) < 3:
        return f"{paired}. With fewer than three {'seeds' if gain.folds is None else 'folds'} no gain is claimed."
    if gain.verdict == "no gain shown":
        return f"{paired}: within two standard errors, so no gain is shown."
    return f"{paired}: a {gain.verdict} of more than two standard errors."


def teacher_sentence(comparison: Comparison) -> list[str]:
    teacher = comparison.teacher
    if teacher is None:
        return []
    text = f"The teacher ({teacher.arch}, {teacher.params / 1e6:.1f}M parameters) has {fraction(teacher.miou)} mIoU"
    if teacher.lead is None:
        return [f"{text}."]
    lead = 100 * teacher.lead
    verdict = (
        f"under {100 * KD_LEAD:g}, so distillation is not expected to help"
        if lead < 100 * KD_LEAD
        else "which is the room that distillation has"
    )
    return [f"{text}, {lead:+.1f} points from the baseline's mean: {verdict}."]


def speed_sentences(comparison: Comparison) -> list[str]:
    """The largest gain over PyTorch of the same run, of the rows whose intervals are apart from its."""
    timed = [row for row in comparison.rows if row.status == "ok" and row.latency is not None]
    torch = {row.run: row for row in timed if row.backend == "torch"}
    others = [row for row in timed if row.backend != "torch" and row.run in torch]
    if not others:
        return []

    def times_faster(row: Row) -> float:
        ours, theirs = torch[row.run].latency, row.latency
        assert ours is not None
        assert theirs is not None
        return ours.median_ms / theirs.median_ms

    def shown(row: Row) -> bool:
        ours, theirs = torch[row.run].latency, row.latency
        assert ours is not None
        assert theirs is not None
        return theirs.ci95_ms[1] < ours.ci95_ms[0]

    best = max(filter(shown, others) if any(map(shown, others)) else others, key=times_faster)
    name = f"{best.backend} {best.precision} ({title_of(best.run)})"
    if not shown(best):
        # A lower median that is not shown to be lower has an interval that overlaps; a higher one needs no reason.
        why = f": the interval of {name}, whose median is lower, overlaps its" if times_faster(best) > 1 else ""
        return [f"No backend is shown to be faster than PyTorch eager{why}."]
    return [
        f"The largest gain over PyTorch is that of {name}: {times_faster(best):.1f} times as fast "
        "as PyTorch eager by the medians of two processes that ran one after the other. For a difference of a few "
        "percent use `kdbench regress`, which measures side by side."
    ]


def agreement_sentences(comparison: Comparison) -> list[str]:
    """Whether exports are still the same model, by precision."""
    sentences = []
    exported = [row for row in comparison.rows if row.status == "ok" and not runs_checkpoints(row.backend)]
    for imported, precision in dict.fromkeys((row.imported, row.precision) for row in exported):
        rows = [
            row for row in exported
            if (row.imported, row.precision) == (imported, precision) and row.agreement_with_torch is not None
        ]  # fmt: skip
        if not rows:
            continue
        worst = min(rows, key=lambda row: row.agreement_with_torch or 0.0)
        reference = ("onnx", "fp32") if imported else ("torch", "fp32")
        torch = {
            row.run: row.miou for row in comparison.rows
            if (row.backend, row.precision) == reference and row.miou is not None
        }  # fmt: skip
        changes = [100 * (row.miou - torch[row.run]) for row in rows if row.miou is not None and row.run in torch]
        change = f"; mIoU changes by {min(changes):+.2f} to {max(changes):+.2f} points" if any(changes) else ""
        whose = "of an imported file gives its own fp32 run's" if imported else "that ran gives PyTorch's"
        least = worst.agreement_with_torch or 0.0
        shares = "every pixel" if least == 1 else f"at least {100 * math.floor(1e5 * least) / 1e5:.3f}% of pixels"
        where = "" if least == 1 else f" ({worst.backend}, {title_of(worst.method)})"
        sentences.append(f"In {precision}, every export {whose} class to {shares}{where}{change}.")
    return sentences


def checklist(found: Evidence) -> list[tuple[bool, str, str]]:
    """The guide's checklist: (done, item, what it is ticked by or which command does it)."""
    trained, comparison = found.trainings, found.comparison
    ok = found.ok_rows()
    command = f"kdbench train --method {{}} --dataset {found.tree.dataset}"

    def training(method: str) -> tuple[bool, str, str]:
        done = method in trained
        by = counted(len(trained[method]), "seed") if done else f"`{command.format(method)}`"
        return done, f"{title_of(method)} trained", by

    compare = f"`kdbench compare --dataset {found.tree.dataset}`"
    return [
        training("baseline"), training("response"), training("feature"),
        (comparison is not None, "Comparison table", f"{len(ok)} measured rows" if comparison else compare),
        (bool(found.histories), "Training curves", "histories" if found.histories else f"`{command.format('all')}`"),
        (comparison is not None or bool(trained), "Hardware recorded", "in every sidecar" if trained else compare),
        (bool(trained), "Training time measured", "in every sidecar" if trained else f"`{command.format('all')}`"),
        (any(row.latency for row in ok), "Inference speed measured", "raw rounds kept" if found.rounds else compare),
        (comparison is not None, "Results analysed", "above" if comparison else compare),
        (True, "Report written", "this page"),
    ]  # fmt: skip
