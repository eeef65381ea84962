"""What a person reads: a few lines of Markdown (for a CI job's page) and a picture of the paired ratios."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.regress.record import Arm, Cell, Recording, cell_verdict
from kdbench.regress.rule import Judgement
from kdbench.runs.files import atomic_path

TAILS = {90: 64, 99: 660}
"""Percentile → calls that it needs of each side, for about 6 to lie beyond it."""
RESAMPLES = 1000


def tail_ratios(cell: Cell) -> dict[str, tuple[float, float, float] | None]:
    """Candidate over baseline at percentiles of all calls, with a 95% bootstrap interval over blocks; None: too few.

    The verdict is about medians; calls of which a few are much slower show here.
    """
    found: dict[str, tuple[float, float, float] | None] = {}
    by_block = [{arm: _calls(block.rounds, arm) for arm in ("baseline", "candidate")} for block in cell.blocks]
    calls = sum(len(block["baseline"]) for block in by_block)
    for percentile, needed in TAILS.items():
        if calls < needed:
            found[f"p{percentile}"] = None
            continue
        rng = np.random.default_rng(0)

        def ratio(chosen: NDArray[np.int64], percentile: int = percentile) -> float:
            ours, theirs = (
                float(np.percentile(np.concatenate([by_block[i][arm] for i in chosen]), percentile))
                for arm in ("candidate", "baseline")
            )
            return ours / theirs

        everything = np.arange(len(by_block))
        resampled = [ratio(rng.choice(everything, len(everything))) for _ in range(RESAMPLES)]
        low, high = np.percentile(resampled, [2.5, 97.5])
        found[f"p{percentile}"] = (ratio(everything), float(low), float(high))
    return found


def _calls(rounds: list[Any], arm: Arm) -> NDArray[np.float64]:
    return np.concatenate(
        [calls for r in rounds for name, calls in zip(r.order, r.calls_ms, strict=True) if name == arm]
    )


def as_markdown(recording: Recording) -> str:
    """The verdict, a line per cell, what else changed, and how it was measured."""
    verdict, reason = recording.verdict()
    lines = [
        f"## Latency: {verdict}", "", f"{reason[0].upper()}{reason[1:]}.", "",
        "| artifact | backend | verdict | ratio | 95% interval | caught from | control | blocks | seconds |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    judgements = recording.judgements()
    for cell, judgement in zip(recording.cells, judgements, strict=True):
        lines.append(_row(cell, judgement))
    lines.append("")
    for cell in recording.cells:
        if cell.blocks:
            lines += [f"- {line}" for line in _details(cell)]
    rule, settings, hardware = recording.rule, recording.settings, recording.environment["hardware"]
    git = recording.environment["git"]
    error = 100 * sum(alpha for _, alpha in rule.looks)
    lines += [
        "",
        f"Ratio: candidate over baseline. Regression: slower by more than {100 * rule.margin:g}% beyond doubt; pass: "
        f"{100 * rule.tolerance:g}% or more ruled out; each wrong in at most {error:g}% of runs. \"Caught from\": "
        "the smallest slowdown that this run's noise lets through in under 5% of runs. \"Control\": a second copy of "
        "the baseline over the baseline, in the same blocks. A block is a fresh process for each.",
        "",
        f"{settings['threads']} threads, {settings['device']}, {hardware['cores']} cores ({hardware['cpu']}), revision "
        f"{(git['revision'] or 'unknown')[:12]}{' with changes' if git['dirty'] else ''}, "
        f"`{recording.environment['command']}`.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _row(cell: Cell, judgement: Judgement | None) -> str:
    verdict, _ = cell_verdict(cell, judgement)
    measured = ["–"] * 4
    if judgement is not None:
        found, control = judgement.estimate, judgement.control
        low, high = found.ci95
        measured = [
            f"{found.ratio:.3f}", f"{low:.3f}–{high:.3f}" if math.isfinite(high) else "–",
            f"{100 * (found.smallest_seen - 1):+.1f}%" if math.isfinite(found.smallest_seen) else "–",
            f"{control.ratio:.3f}",
        ]  # fmt: skip
    cells = [cell.name, cell.backend, f"**{verdict}**", *measured, str(len(cell.blocks)), f"{cell.seconds:.0f}"]
    return "| " + " | ".join(cells) + " |"


def _details(cell: Cell) -> list[str]:
    """What the verdict is not about."""
    lines = []
    if not cell.outputs_same:
        lines.append(f"{cell.name}: **the sides compute different things** ({cell.outputs})")
    tails = []
    for name, tail in tail_ratios(cell).items():
        tails.append(f"{name} {'too few calls' if tail is None else f'{tail[0]:.3f} ({tail[1]:.3f}–{tail[2]:.3f})'}")

    def starts(arm: Arm, what: str) -> float:
        known = [getattr(block.starts[arm], what) for block in cell.blocks if block.starts]
        return float(np.median(known)) if known else math.nan

    started = ", ".join(
        f"{title} {starts('baseline', what):.0f} → {starts('candidate', what):.0f} {unit}"
        for what, title, unit in (
            ("load_ms", "load", "ms"), ("first_ms", "first call", "ms"), ("peak_mib", "peak memory", "MiB"),
        )
    )  # fmt: skip
    medians = [float(np.median(cell.calls(arm))) for arm in ("baseline", "candidate")]
    lines.append(
        f"{cell.name}: median call {medians[0]:.2f} → {medians[1]:.2f} ms; tail ratio {', '.join(tails)}; {started}; "
        f"outputs: {cell.outputs}"
    )
    stolen = [block.steal for block in cell.blocks if block.steal is not None]
    if stolen and float(np.mean(stolen)) > 0.02:
        lines.append(f"{cell.name}: the hypervisor gave {100 * float(np.mean(stolen)):.1f}% of the CPU time to others")
    return lines


def draw(recording: Recording, path: Path) -> None:
    """Paired ratios by block, candidate and control, with margin and tolerance: a panel per cell (.png)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cells = [cell for cell in recording.cells if cell.blocks]
    figure = Figure(figsize=(8, 3 * max(1, len(cells))), layout="constrained")
    FigureCanvasAgg(figure)
    rule = recording.rule
    for index, cell in enumerate(cells):
        axes = figure.add_subplot(len(cells), 1, index + 1)
        numbers = np.arange(1, len(cell.blocks) + 1)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.axhline(100 * rule.margin, color="0.4", linewidth=0.8, linestyle=":", label="margin")
        axes.axhline(100 * rule.tolerance, color="0.4", linewidth=0.8, linestyle="--", label="tolerance")
        # Okabe and Ito's blue and orange: apart for every kind of colour vision, and by shape.
        for arm, colour, marker in (("control", "#E69F00", "x"), ("candidate", "#0072B2", "o")):
            values = 100 * np.expm1(cell.ln_ratios(arm))  # type: ignore[arg-type]
            axes.plot(numbers, values, marker, color=colour, markersize=4, linestyle="none", label=arm)
        for blocks, _ in cell.looks:
            axes.axvline(blocks + 0.5, color="0.85", linewidth=0.8, zorder=0)
        axes.set_xlabel("block (a fresh process for each; vertical lines: looks)")
        axes.set_ylabel("slower than baseline, %")
        axes.set_title(cell.name, fontsize=10)
        axes.legend(fontsize=8, ncols=4, loc="upper right", framealpha=0.8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
