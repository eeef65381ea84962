"""Which tensor of a file is which of a network: the prefixes that differ, and what is left out on purpose."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from trainers.weights_file import is_average

COUNTER = "num_batches_tracked"
"""BatchNorm's count of steps, which changes nothing that it computes: files may lack it."""
AUXILIARY = "aux_classifier"
"""torchvision's second head, which no network here has, and whose absence needs no word."""


@dataclass(frozen=True)
class Match:
    """How a file fits a network.

    Attributes:
        pairs: name in the network → name in the file, of the same shape.
        heads: names in the network of what the file has in another shape, and may: its last layers.
        odd: the same where it may not, so that the file is another network's.
        strip: the prefix of names in the file that those in the network lack.
        instead: other prefixes with which the file would have fitted as well.
    """

    pairs: dict[str, str]
    heads: frozenset[str]
    odd: tuple[str, ...]
    strip: str
    instead: tuple[str, ...]


def match(given: dict[str, Tensor], own: dict[str, Tensor], upstream: dict[str, str]) -> Match:
    """Find the prefixes with which most tensors of a file and a network have the same name and shape.

    Args:
        given: the file's.
        own: the network's, those that the file may fill.
        upstream: names of ``own`` → names that they have where the network was published.
    """
    found = _match(given, own, {name: name for name in own})
    if upstream:
        other = _match(given, own, {upstream.get(name, name): name for name in own})
        found = max(found, other, key=lambda m: len(m.pairs))
    return found


def _match(given: dict[str, Tensor], own: dict[str, Tensor], called: dict[str, str]) -> Match:
    strip, add, instead = _prefixes(given, {name: own[called[name]] for name in called})
    pairs: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for name, value in given.items():
        mine = called.get(add + name.removeprefix(strip)) if name.startswith(strip) else None
        if mine is not None:
            (pairs if own[mine].shape == value.shape else wrong)[mine] = name
    # A layer with a row for each class, in a network for another number of them.
    rows = {name: (given[wrong[name]].shape, own[name].shape) for name in wrong}
    classifier = {name for name, (a, b) in rows.items() if len(a) and len(a) == len(b) and a[1:] == b[1:]}
    if len({(rows[name][0][0], rows[name][1][0]) for name in classifier}) > 1:
        classifier = set()
    odd, heads = [name for name in wrong if name not in classifier], set(classifier)
    # Another decoder, or a head of another width: parts at the network's end that fit for the most part not.
    ours, kept = odd, dict(pairs)
    for names in reversed(by_part(own).values()):
        misfits, fits = [name for name in names if name in odd], [name for name in names if name in pairs]
        if len(fits) > len(misfits):
            break
        if misfits:
            heads.update(misfits, fits)
            odd = [name for name in odd if name not in misfits]
            kept = {name: kept[name] for name in kept if name not in fits}
    if not kept:  # that was no head, but another network
        odd, heads, kept = ours, classifier, pairs
    return Match(kept, frozenset(heads), tuple(odd), strip, instead)


def _prefixes(given: dict[str, Tensor], own: dict[str, Tensor]) -> tuple[str, str, tuple[str, ...]]:
    """What to strip from the file's names and to add to what is left, for the most matches.

    Returns:
        (strip, add, others to strip that are as good); the shortest where several are best.
    """
    endings = defaultdict(list)
    for name, value in own.items():
        if not name.endswith(COUNTER):
            for add, rest in _splits(name):
                endings[rest, value.shape].append(add)
    counts = Counter(
        (strip, add)
        for name, value in given.items()
        for strip, rest in _splits(name)
        for add in endings.get((rest, value.shape), ())
    )
    if not counts:
        return "", "", ()
    most = max(counts.values())
    best = [pair for pair, count in counts.items() if count == most]
    strip, add = min(best, key=lambda pair: (is_average(pair[0]), len("".join(pair)), pair))
    return strip, add, tuple(other for other, added in best if added == add and other != strip)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """ "a.b.c" → ("", "a.b.c"), ("a.", "b.c"), ("a.b.", "c")."""
    start = 0
    while start <= len(name):
        yield name[:start], name[start:]
        start = (name.find(".", start) + 1) or len(name) + 1


def by_part(names: Iterable[str], strip: str = "") -> dict[str, list[str]]:
    """Names by the topmost module in which they differ, in their order."""
    names = list(names)
    short = {name: name.removeprefix(strip).split(".") for name in names}
    common = 0
    while len(names) > 1 and all(len(parts) > common + 1 for parts in short.values()):
        if len({parts[common] for parts in short.values()}) > 1:
            break
        common += 1
    found: dict[str, list[str]] = {}
    for name, parts in short.items():
        found.setdefault(parts[common] if len(names) > 1 else parts[0], []).append(name)
    return found
