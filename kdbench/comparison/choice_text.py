"""A choice in words: the paragraph with its reason, and the Pareto front beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from kdbench.comparison.choice import Candidate, Check, Choice, Interval, Limits
from kdbench.comparison.numbers import fraction
from kdbench.comparison.results import Comparison, Row
from kdbench.methods.base import title_of
from kdbench.runs.tree import USUAL

FRONT_HEADER = ["Artifact", "mIoU", "Loss", "Median ms (95%)", "MB", "Limits"]
OLD = " (its interval is not in these results, which an earlier version wrote: compare again for it)"
SHORT = {"--max-miou-loss": "loss", "--min-miou": "mIoU", "--max-ms": "ms", "--max-mb": "MB"}
"""Limits as the table's columns are called."""


def paragraph(choice: Choice, comparison: Comparison) -> str:
    """What to deploy and why, or what comes nearest and what is in its way."""
    if choice.chosen is not None:
        sentences = [deploy(choice.chosen), loss_sentence(choice.chosen), *why(choice)]
        sentences += [crossing(check) for check in choice.chosen.crosses]
    elif choice.nearest is not None:
        sentences = nothing_fits(choice, choice.nearest)
    else:
        sentences = no_candidates(choice, comparison)
    return " ".join([*sentences, *not_measured(comparison, choice.limits)])


def deploy(candidate: Candidate) -> str:
    return f"Deploy {candidate.artifact.path}: {figures(candidate)}."


def figures(candidate: Candidate) -> str:
    row, latency = candidate.row, candidate.latency
    over = f" (95% interval over images {between(row.miou_ci95, '.4f')})" if row.miou_ci95 else ""
    return (
        f"{name_of(row)}, mIoU {fraction(row.miou)}{over}, median {latency.median_ms:.2f} ms "
        f"(95% interval {between(latency.ci95_ms, '.2f')}), {candidate.megabytes:.2f} MB"
    )


def name_of(row: Row) -> str:
    return f"{title_of(row.run)} through {row.backend} {row.precision}"


def short_name(row: Row) -> str:
    """In the command line's own names, which leave room for numbers."""
    return f"{row.run} {row.backend} {row.precision}"


def between(interval: Interval, form: str) -> str:
    low, high = (f"{end:{form}}" for end in interval)
    return f"{low} to {high}"


def loss_sentence(candidate: Candidate) -> str:
    """Against the float32 row of its own method."""
    loss = candidate.loss
    if loss is None:
        return "What it loses against the fp32 row of its method cannot be told: that row is not in this comparison."
    against = f"{loss.of} of the same method"
    if loss.ci95 is not None:
        interval = f" (95% interval of the loss {between(loss.ci95, '.4f')}, paired over images)"
    else:
        interval = OLD if candidate.row.miou_loss is None else ""
    if loss.ci95 is not None and {fraction(abs(end)) for end in loss.ci95} == {fraction(0)}:
        interval = ", whichever of the images are drawn"
    if fraction(abs(loss.loss)) == fraction(0):
        return f"It has the mIoU of {against}{interval}."
    if loss.loss > 0:
        return f"It loses {fraction(loss.loss)} of mIoU against {against}{interval}."
    return f"It has {fraction(-loss.loss)} more mIoU than {against}{interval}."


def why(choice: Choice) -> list[str]:
    """Why this one of those that meet the limits."""
    assert choice.chosen is not None
    fitting, total = sum(not candidate.misses for candidate in choice.candidates), len(choice.candidates)
    if total == 1:
        return [f"It is the only measured artifact, and meets {asked(choice.limits)}."]
    among = f"{fitting} of {total} measured artifacts {'meets' if fitting == 1 else 'meet'} {asked(choice.limits)}"
    others = [candidate for candidate in choice.equal if candidate is not choice.chosen]
    if not others:
        return [f"{among}{'' if fitting == 1 else ', and it is the fastest of them'}."]
    return [
        f"{among}. It is equal in speed to {listed([name_of(one.row) for one in others])}, as latency intervals "
        f"overlap that of the fastest: of these {len(choice.equal)} it is {merit(choice.chosen, others)}."
    ]


def merit(chosen: Candidate, others: Sequence[Candidate]) -> str:
    """What sets it apart from those that are as fast."""
    rivals = [one for one in others if fraction(one.miou) == fraction(chosen.miou)]
    if rivals:
        smaller = all(one.artifact.bytes > chosen.artifact.bytes for one in rivals)
        best = "smallest" if smaller else "fastest by its median"
        return f"the {best}, with the same mIoU" if len(rivals) == len(others) else f"the {best} of the most accurate"
    second = max(others, key=lambda one: one.miou)
    here, there = chosen.row.miou_ci95, second.row.miou_ci95
    overlap = here is not None and there is not None and here[0] <= there[1]
    doubt = "; their intervals over images overlap" if overlap else ""
    return f"the most accurate (the next has {fraction(second.miou)}{doubt})"


def asked(limits: Limits) -> str:
    """The limits in the command line's words."""
    values = [
        ("--max-miou-loss", limits.max_miou_loss), ("--min-miou", limits.min_miou), ("--max-ms", limits.max_ms),
        ("--max-mb", limits.max_mb),
    ]  # fmt: skip
    said = [f"{flag} {value:g}" for flag, value in values if value is not None]
    return listed(said) if said else "what was asked, which is nothing"


def crossing(check: Check) -> str:
    """Of a limit that the point estimate meets or misses, and the interval lies across."""
    assert check.interval is not None
    return (
        f"Its interval crosses {check.flag} {check.limit:g} ({between(check.interval, form_of(check))}): whether "
        f"{'other images' if check.flag.endswith(('loss', 'miou')) else 'another measurement'} would "
        f"{'meet' if check.met else 'miss'} it too is not certain."
    )


def form_of(check: Check) -> str:
    return {"--max-miou-loss": ".4f", "--min-miou": ".4f"}.get(check.flag, ".2f")


def nothing_fits(choice: Choice, nearest: Candidate) -> list[str]:
    """What comes nearest, what is in its way, and how many miss each limit."""
    count = Counter(check.flag for candidate in choice.candidates for check in candidate.misses)
    total = len(choice.candidates)
    missed = listed([f"{flag} is missed by {many}" for flag, many in count.items()])
    measured = "the 1 measured artifact" if total == 1 else f"the {total} measured artifacts"
    return [
        f"Nothing meets {asked(choice.limits)}. Nearest comes {nearest.artifact.path}: {figures(nearest)}.",
        f"In its way: {listed([in_the_way(check) for check in nearest.misses])}.",
        *[crossing(check) for check in nearest.misses if check.crossed],
        f"Of {measured}, {missed}.",
    ]


def in_the_way(check: Check) -> str:
    if check.got is None:
        return (
            f"{check.flag} {check.limit:g}, which cannot be held against it: the fp32 row of its method is not in this "
            f"comparison (`kdbench compare` with torch has it; {check.flag} 1 does not ask)"
        )
    return f"{check.flag} {check.limit:g} (it has {check.got:{form_of(check)}})"


def no_candidates(choice: Choice, comparison: Comparison) -> list[str]:
    limits = choice.limits
    names = [
        f"{flag} {','.join(USUAL if value is None else value for value in values)}"
        for flag, values in (
            ("--backend", limits.backends), ("--method", limits.methods), ("--variant", limits.variants)
        )
        if values
    ]  # fmt: skip
    narrowed = f" for {listed(names)}" if names else ""
    return [
        f"Nothing to choose from: this comparison has no measured artifact{narrowed}. `kdbench export --dataset "
        f"{comparison.dataset['name']}` makes them, and `kdbench compare` measures them."
    ]


def not_measured(comparison: Comparison, limits: Limits) -> list[str]:
    """Rows that would have been candidates had they run."""
    states = Counter(
        row.status for row in comparison.rows if limits.ask_for(row) and row.status not in ("ok", "unsupported")
    )
    if not states:
        return []
    told = ", ".join(f"{count} {status}" for status, count in states.items())
    return [f"Not considered, because not measured: {told}."]


def front_cells(choice: Choice, name: Callable[[Row], str]) -> list[list[str]]:
    """A row of text for each of the front, and for what was chosen; fastest first.

    Args:
        name: of the artifact.
    """
    shown = list(choice.front)
    special = choice.chosen or choice.nearest
    if special is not None and special not in shown:
        shown = sorted([*shown, special], key=lambda one: one.latency.median_ms)
    return [
        [
            name(one.row), fraction(one.miou), lost(one),
            f"{one.latency.median_ms:.2f} ({one.latency.ci95_ms[0]:.2f}–{one.latency.ci95_ms[1]:.2f})",
            f"{one.megabytes:.2f}", state(one, choice),
        ]
        for one in shown
    ]  # fmt: skip


def lost(candidate: Candidate) -> str:
    """The loss without the sign of a zero."""
    return fraction(None if candidate.loss is None else round(candidate.loss.loss, 4) + 0.0)


def state(candidate: Candidate, choice: Choice) -> str:
    if candidate is choice.chosen:
        return "chosen"
    missed = ", ".join(SHORT[check.flag] for check in candidate.misses)
    return f"misses {missed}" if missed else "met"


def as_json(choice: Choice, comparison: Comparison) -> dict[str, Any]:
    """For ``--json``."""
    limits = vars(choice.limits)
    return {
        "chosen": choice.chosen.as_json() if choice.chosen else None,
        "reason": paragraph(choice, comparison),
        "limits": {key: list(value) if isinstance(value, tuple) else value for key, value in limits.items()},
        "considered": len(choice.candidates),
        "meeting": sum(not candidate.misses for candidate in choice.candidates),
        "equal_in_speed": [one.as_json() for one in choice.equal],
        "front": [one.as_json() for one in choice.front],
        "nearest": choice.nearest.as_json() if choice.nearest else None,
    }


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *head, last = parts
    return f"{', '.join(head)} and {last}" if head else last
