"""What a person reads: tables on a terminal, and the same in Markdown for a CI job's page."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdbench.comparison import markdown
from kdbench.comparison.latency import UNSTABLE_STEAL
from kdbench.comparison.numbers import NOTHING, counted
from kdbench.regress.record import Arm, Cell, Recording, cell_verdict
from kdbench.regress.rule import Judgement, Verdict

TAILS = {90: 64, 99: 660}
"""Percentile → calls that it needs of each side, for about 6 to lie beyond it."""
RESAMPLES = 1000
STYLES: dict[Verdict, str] = {"pass": "bold green", "regression": "bold red", "inconclusive": "bold yellow"}


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
    header = (
        "artifact", "backend", "verdict", "ratio", "interval", "caught from", "control", "blocks", "seconds",
    )  # fmt: skip
    rows = [
        [
            cell.name, cell.backend, f"**{cell_verdict(cell, judgement)[0]}**", *figures(judgement),
            str(len(cell.blocks)), f"{cell.seconds:.0f}",
        ]
        for cell, judgement in zip(recording.cells, recording.judgements(), strict=True)
    ]  # fmt: skip
    lines = [f"## Latency: {verdict}", "", sentence(recording, reason), "", markdown.table(header, rows, words=3), ""]
    lines += [f"- {line}" for line in details(recording)]
    lines += ["", " ".join(explained(recording)), "", f"{measured_on(recording)}."]
    return "\n".join(lines) + "\n"


def sentence(recording: Recording, reason: str) -> str:
    """The verdict's reason, which begins with an artifact's name where there are several."""
    return f"{reason}." if len(recording.cells) > 1 else f"{reason[0].upper()}{reason[1:]}."


def figures(judgement: Judgement | None) -> tuple[str, str, str, str]:
    """Ratio, the interval that the verdict is by, the smallest slowdown that is caught, and the control's ratio."""
    if judgement is None:
        return (NOTHING,) * 4
    found = judgement.estimate
    bounded = found.low > 0 and math.isfinite(found.high)
    return (
        f"{found.ratio:.3f}",
        f"{found.low:.3f}–{found.high:.3f}" if bounded else NOTHING,
        f"{100 * (found.smallest_seen - 1):+.1f}%" if math.isfinite(found.smallest_seen) else NOTHING,
        f"{judgement.control.ratio:.3f}",
    )


def explained(recording: Recording) -> list[str]:
    """What the columns are, a sentence or two each."""
    rule = recording.rule
    error = 100 * sum(alpha for _, alpha in rule.looks)
    return [
        "Ratio: the candidate's latency over the baseline's.",
        f"Interval: where the ratio lies. All of it above {1 + rule.margin:.3f} (--margin) is a regression, all of it "
        f"below {1 + rule.tolerance:.3f} (--tolerance) a pass; each is wrong in at most {error:g}% of runs.",
        "Caught from: the smallest slowdown that this noise lets through in under 5% of runs.",
        "Control: a second copy of the baseline over the baseline, in the same blocks.",
        "A block is a fresh process for each.",
        "Slow calls: that percentile of one side's calls over the other's, and "
        "in brackets its 95% interval; the verdict is not about them.",
    ]


def measured_on(recording: Recording) -> str:
    settings, hardware = recording.settings, recording.environment["hardware"]
    git = recording.environment["git"]
    return (
        f"{counted(settings['threads'], 'thread')}, {settings['device']}, {counted(hardware['cores'], 'core')} "
        f"({hardware['cpu']}), revision {(git['revision'] or 'unknown')[:12]}"
        f"{' with changes' if git.get('dirty') else ''}, `{recording.environment['command']}`"
    )


def print_summary(recording: Recording, console: Console) -> None:
    """The same on a screen: a table that fits 80 columns, and below it what else there is to say of each artifact."""
    verdict, reason = recording.verdict()
    say = partial(console.print, highlight=False)
    say(f"Latency: [{STYLES[verdict]}]{verdict}[/]. {escape(sentence(recording, reason))}")
    table = _table(recording, separator="/")
    if console.measure(table, options=console.options.update(max_width=10_000)).maximum > console.width:
        table = _table(recording, separator="/\n")
    say(table)
    for line in (*details(recording), *explained(recording), f"{measured_on(recording)}."):
        say(line.replace("**", "").replace("`", ""), markup=False)


def _table(recording: Recording, separator: str) -> Table:
    """A row per artifact, whose name's parts may stand below each other."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in ("artifact", "verdict", "ratio", "interval", "caught from", "blocks"):
        words = name in ("artifact", "verdict")
        table.add_column(name, justify="left" if words else "right", no_wrap=name != "artifact", overflow="fold")
    for cell, judgement in zip(recording.cells, recording.judgements(), strict=True):
        verdict = cell_verdict(cell, judgement)[0]
        ratio, interval, caught_from, _ = figures(judgement)
        name = escape(separator.join(cell.name.split("/")))
        table.add_row(name, f"[{STYLES[verdict]}]{verdict}[/]", ratio, interval, caught_from, str(len(cell.blocks)))
    return table


def details(recording: Recording) -> list[str]:
    """Of each artifact, why it did not pass where there are several, and what the verdict is not about."""
    lines = list[str]()
    for cell, judgement in zip(recording.cells, recording.judgements(), strict=True):
        verdict, reason = cell_verdict(cell, judgement)
        if len(recording.cells) > 1 and verdict != "pass":
            lines.append(f"{cell.name}: {reason}")
        if cell.blocks:
            lines += _not_judged(cell, judgement)
    return lines


def _not_judged(cell: Cell, judgement: Judgement | None) -> list[str]:
    lines = []
    if not cell.outputs_same:
        lines.append(f"{cell.name}: **the sides compute different things** ({cell.outputs})")
    tails = []
    for name, tail in tail_ratios(cell).items():
        tails.append(f"{name} {'of too few calls' if tail is None else f'{tail[0]:.3f} ({tail[1]:.3f}–{tail[2]:.3f})'}")

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
        f"{cell.name}, {cell.backend}, {cell.seconds:.0f} s: median call {medians[0]:.2f} → {medians[1]:.2f} ms; "
        f"control {figures(judgement)[3]}; ratio of slow calls {', '.join(tails)}; {started}; outputs: {cell.outputs}"
    )
    stolen = [block.steal for block in cell.blocks if block.steal is not None]
    if stolen and float(np.mean(stolen)) > UNSTABLE_STEAL:
        lines.append(f"{cell.name}: the hypervisor gave {100 * float(np.mean(stolen)):.1f}% of the CPU time to others")
    return lines
