"""A training's losses by name, weight and style, for the figures and the report's charts alike."""

from __future__ import annotations

from collections.abc import Sequence

from kdbench.methods.base import HISTORY_KEYS, METHODS, PER_PIXEL, UNKNOWN, Style, known_terms, method_in
from kdbench.runs.history import MethodHistory

TOTAL = {"loss": ("total", Style("#000000", "-", "o")), "ce": ("cross-entropy", Style("#E69F00", "--", "s"))}
"""Losses that every history has: key → name in the legend and style."""
LOG_FROM = 100.0
"""Ratio of highest to lowest loss from which the axis is logarithmic (``--kl-reduction batchmean`` reaches it)."""


def losses_in(history: MethodHistory) -> dict[str, tuple[str, Style]]:
    """Key → name in the legend and style of a history's losses: total, cross-entropy, terms, then unknown ones."""
    keys = {key: None for seed in history.seeds for row in seed.rows for key in row}
    losses = {**TOTAL, **{name: (term.legend, term.style) for name, term in known_terms().items()}}
    unknown = {key: (key, UNKNOWN) for key in keys if key not in losses and key not in HISTORY_KEYS}
    return {key: loss for key, loss in {**losses, **unknown}.items() if key in keys}


def loss_label(histories: Sequence[MethodHistory]) -> str:
    """What the axis of losses says: over what the losses are means, where all of them are means over the same."""
    terms = known_terms()
    scales = {PER_PIXEL}
    for history in histories:
        for key in losses_in(history).keys() - TOTAL.keys():
            scales.add(terms[key].scale_in(history.recipe) if key in terms else "")
    if summed := scales - {PER_PIXEL, ""}:
        return f"training loss ({', '.join(sorted(summed))})"
    return "training loss" if "" in scales else f"training loss ({PER_PIXEL})"


def has_cross_entropy(history: MethodHistory) -> bool:
    """Whether cross-entropy is part of the method's loss, and not only shown."""
    method = method_in(history.method)
    return method not in METHODS or METHODS[method].cross_entropy


def weights(history: MethodHistory) -> str:
    """ "\ntotal = 1 · CE + 0.7 · response", or nothing while no sidecar says the weights."""
    if not history.recipe:
        return ""
    terms, parts = known_terms(), []
    for key, (name, _) in losses_in(history).items():
        if key == "loss" or (key == "ce" and not has_cross_entropy(history)):
            continue
        weight = history.recipe.get("alpha" if key == "ce" else terms[key].weight.name if key in terms else "")
        if not isinstance(weight, int | float):
            return ""  # a recipe of an older kdbench, or a term of another one
        parts.append(f"{weight:g} · {'CE' if key == 'ce' else name}")
    return "\ntotal = " + " + ".join(parts)
