"""Start a network from weights that exist: a file as people have it, or published ones by name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdbench.errors import BadInput
from kdbench.models.ensemble import Ensemble
from kdbench.models.segmentation import SegmentationModel
from kdbench.runs.files import sha256
from trainers.weights_file import SUFFIXES, read_weights, shown
from trainers.weights_match import AUXILIARY, COUNTER, Match, by_part, match

PARTS_SHOWN = 6
"""Parts of a network that a line about it names."""


@dataclass(frozen=True)
class Filled:
    """What a network started from. BatchNorm's counts of steps, which files may lack, are in none of its lists.

    Attributes:
        source: as it was given.
        origin: the file's name, or the published weights'; of an ensemble those of its members, with commas.
        sha256: of the file that was read, likewise.
        filled: parameters and buffers of the network that have the file's values.
        fresh: those that keep their initialisation.
        unused: tensors of the file that the network has no place for.
        complete: nothing is fresh, and the file's network has no more layers, so that this one is what was saved.
        taken: which of several networks in the file it was, and which other there is; "" where there is one.
        strip: prefix of the file's names.
    """

    source: str
    origin: str
    sha256: str | None
    filled: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    complete: bool
    taken: str = ""
    strip: str = ""

    def line(self, who: str) -> str:
        """What to print about ``who``, the student or the teacher."""
        hashed = f" (sha256 {self.sha256[:8]}…)" if self.sha256 else ""
        counts = f"{len(self.filled)} of {len(self.filled) + len(self.fresh)} tensors"
        said = [f"{who}: {counts} from '{self.origin}'{self.taken}{hashed}"]
        if self.fresh:
            parts = by_part([*self.filled, *self.fresh])
            fresh = set(self.fresh)
            said.append("left fresh: " + _listed({part: sum(n in fresh for n in parts[part]) for part in parts}))
        if self.unused:
            unused = [name.removeprefix(self.strip).split(".")[0] for name in self.unused]
            said.append("not used: " + _listed({part: unused.count(part) for part in dict.fromkeys(unused)}))
        return "; ".join(said)

    def fields(self) -> dict[str, Any]:
        """For the sidecar."""
        return {
            "name": self.origin,
            "sha256": self.sha256,
            "filled": len(self.filled),
            "fresh": len(self.fresh),
            "unused": len(self.unused),
        }


def _listed(counts: dict[str, int]) -> str:
    some = [f"{shown(part, 40)} ({count})" for part, count in counts.items() if count]
    more = len(some) - PARTS_SHOWN
    return ", ".join(some[:PARTS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def load_weights(
    model: SegmentationModel, arch: str, source: str, flag: str = "--teacher-weights", into: str | None = None
) -> Filled:
    """Load ``source`` into ``model``: every tensor that has the name and shape of one there, up to prefixes.

    Args:
        model: a student or teacher; last layers for another number of classes keep their fresh initialisation.
        arch: its name, for errors.
        source: a file of torch.save or safetensors, with a state dict or a checkpoint that holds one; or a name of
            ``model.published()``, as IMAGENET1K_V1 or imagenet; for an ensemble a file of each member, with commas.
        flag: for errors.
        into: the module that the file fills, as "encoder"; None = found by names and shapes.

    Raises:
        BadInput: no such file, name or module; an unreadable file, or one made for another architecture; weights that
            cannot be downloaded; in an ensemble, a file that does not fill its member.
    """
    if isinstance(model, Ensemble):
        return _load_members(model, arch.split("+"), source.split(","), flag)
    what = f"{flag} '{shown(source, 400)}'"
    given = _given(model, arch, source, flag)
    into = into or given.into
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    places = {name: value for name, value in own.items() if into is None or name.startswith(f"{into}.")}
    if not places:
        modules = ", ".join(by_part(own))
        raise BadInput(
            f"{flag}: {arch} has no module '{shown(into)}' to fill, expected one of {modules}, or a path in it"
        )
    upstream = model.upstream_names()
    matches = {key: match(tensors, places, upstream) for key, tensors in given.candidates.items()}
    key = max(matches, key=lambda key: len(matches[key].pairs))  # the first of the best
    found, tensors = matches[key], given.candidates[key]
    _require_fit(found, tensors, places, what, arch, "" if into is None else f", module {into}")
    if given.into is not None and into == given.into:
        missing = [name for name in places if name not in found.pairs and not name.endswith(COUNTER)]
        if missing:
            raise BadInput(
                f"{what} ({given.origin}) fill {len(places) - len(missing)} of the {len(places)} tensors of {into} in "
                f"{arch}, expected all of them: this version has other names or shapes, {shown(missing[0])} for one; "
                f"give a file of weights, or {flag} none"
            )
    values = {name: _value(what, theirs, tensors[theirs], own[name]) for name, theirs in found.pairs.items()}
    model.load_state_dict({**model.state_dict(), **values})
    fresh = tuple(name for name in own if name not in values and not name.endswith(COUNTER))
    unused = tuple(_unused(found, tensors))
    filled = tuple(name for name in own if name in values and not name.endswith(COUNTER))
    # Other networks in the file: under another key, or in the same dict with another prefix.
    choices = [(key, [k for k in given.candidates if k != key]), (found.strip, found.instead)]
    taken = "".join(f", its '{shown(it)}' and not '{shown(others[0])}'" for it, others in choices if others)
    complete = not fresh and not _has_more_layers(found, unused)
    return Filled(source, given.origin, given.sha256, filled, fresh, unused, complete, taken, found.strip)


def _load_members(model: Ensemble, archs: list[str], sources: list[str], flag: str) -> Filled:
    if len(sources) != len(archs):
        raise BadInput(
            f"{flag}: got {len(sources)} file{'s' * (len(sources) > 1)} for {' + '.join(archs)}, expected "
            f"{len(archs)}, one of each in that order, with commas"
        )
    made = []
    for member, arch, source in zip(model.members, archs, sources, strict=True):
        assert isinstance(member, SegmentationModel)
        made.append(load_weights(member, arch, source, flag))
        if not made[-1].complete:
            raise BadInput(
                f"{flag} '{source}' are for another number of classes than the dataset's, or for a part of the "
                f"network or a deeper one, and a member of an ensemble is not trained further: give a {arch} that was "
                "trained on this dataset"
            )
    filled = tuple(f"members.{i}.{name}" for i, one in enumerate(made) for name in one.filled)
    unused = tuple(name for one in made for name in one.unused)
    hashes = ",".join(str(one.sha256) for one in made)
    return Filled(",".join(sources), ",".join(one.origin for one in made), hashes, filled, (), unused, True)


class _Given(NamedTuple):
    """State dicts to choose from, by their key in a file; the rest as in ``Filled`` and ``load_weights``."""

    candidates: dict[str, dict[str, Tensor]]
    origin: str
    sha256: str | None
    into: str | None


def _given(model: SegmentationModel, arch: str, source: str, flag: str) -> _Given:
    published = model.published()
    exists = os.path.lexists(source)
    if source in published:
        try:
            state, origin, digest, into = published[source]()
        except OSError as error:
            scratch = "or train from scratch with" if "student" in flag else "or"
            raise BadInput(
                f"{flag} {source} cannot be downloaded ({shown(error, 200)}): download that file elsewhere and give "
                f"its path, {scratch} {flag} none"
            ) from error
        return _Given({"": state}, origin, digest, into)
    if "," in source and not exists:
        raise BadInput(
            f"{flag}: got {len(source.split(','))} files for {arch}, expected one: for an ensemble of them join "
            "their architectures in --teacher by +"
        )
    path = Path(source)
    if not exists and path.suffix not in SUFFIXES and "/" not in source:
        names = f", or one of {', '.join(published)}" if published else f" for {arch}"
        raise BadInput(f"{flag}: got '{shown(source)}', expected a file of weights ({', '.join(SUFFIXES)}){names}")
    return _Given(read_weights(source, flag), path.name, sha256(path), None)


def _unused(found: Match, given: dict[str, Tensor]) -> list[str]:
    """Tensors of a file that fill nothing, without those whose absence needs no word."""
    used = set(found.pairs.values())
    return [n for n in given if n not in used and not n.endswith(COUNTER) and AUXILIARY not in n.split(".")]


def _has_more_layers(found: Match, unused: tuple[str, ...]) -> bool:
    """Whether a file repeats a part more often than the network, as a ResNet-34 does for a ResNet-18."""
    filled = {re.sub(r"\d+", "#", name) for name in found.pairs.values()}
    return any(re.sub(r"\d+", "#", name) in filled for name in unused if name.startswith(found.strip))


def _require_fit(
    found: Match, given: dict[str, Tensor], places: dict[str, Tensor], what: str, arch: str, where: str
) -> None:
    """Raise BadInput where a file is another network's; ``where`` names a module that a person chose."""
    if not found.pairs and not found.odd:
        theirs, mine = next(iter(given)), next(iter(places))
        raise BadInput(
            f"{what}: none of its tensors ({len(given)}) fits {arch}{where} by name and shape (it has "
            f"'{shown(theirs)}' {_shape(given[theirs])}, there is '{mine}' {_shape(places[mine])}): give weights of a "
            f"{arch}"
        )
    placed = {*found.pairs, *found.heads, *found.odd}
    missing = [name for name in places if name not in placed and not name.endswith(COUNTER)]
    unknown = _unused(found, given)
    fits = [name for name in found.pairs if not name.endswith(COUNTER)]
    stray = not where and len(fits) < len(unknown) and 2 * len(fits) < len(fits) + len(missing) + len(found.heads)
    if found.odd or stray:
        first = sorted([*missing, *unknown, *found.odd] if stray else found.odd)[0]
        can_say = "student" in what.partition(" ")[0] and not where  # in a recipe, for a student
        part = ", or name the module that they fill (weights_into)" if can_say else ""
        raise BadInput(
            f"{what} do not fit {arch}{where}: {len(missing)} parameters missing, {len(unknown)} unknown, "
            f"{len(found.odd)} of another shape (first: '{shown(first)}'): give weights of a {arch}{part}"
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _value(what: str, name: str, value: Tensor, own: Tensor) -> Tensor:
    """A tensor as a network takes it: in its type, with numbers in it."""
    problem, fix = None, "save plain numbers"
    if value.is_meta:
        problem = "is on the meta device, with a shape and without values"
    elif value.layout != torch.strided or value.is_quantized:
        problem = "is quantised or sparse"
    elif own.is_floating_point() and not value.is_floating_point():
        problem = f"is {str(value.dtype).removeprefix('torch.')}, expected floating-point numbers"
    else:
        value = value.to(own.dtype)
        # The extremes are NaN where any value is, and one pass finds both.
        if value.is_floating_point() and value.numel() and not all(map(torch.isfinite, value.aminmax())):
            problem, fix = "has values that are NaN or infinite", "give weights of a training that went well"
    if problem is not None:
        raise BadInput(f"{what}: '{shown(name)}' {problem}: {fix}")
    return value
