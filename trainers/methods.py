"""What a method is in training: its losses, and the objective that weighs them. L = α·CE + Σ weight · term.

``kdbench.methods`` declares the methods and names the losses of their terms, of which some stand here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from kdbench.errors import BadInput
from kdbench.methods.base import METHODS, Term
from kdbench.models.registry import shared_levels
from kdbench.models.segmentation import SegmentationModel, Taps
from trainers.adapters import make_adapters
from trainers.losses import channel_wise, cross_entropy, feature_cosine, feature_pearson, relations, response_kl
from trainers.recipe import Recipe

Loss = Callable[[Taps, Taps, Tensor, Recipe], Tensor]
"""(student's taps, teacher's taps, labels, recipe) → scalar."""


def response(student: Taps, teacher: Taps, labels: Tensor, recipe: Recipe) -> Tensor:
    return response_kl(student.logits, teacher.logits, labels, recipe.temperature, recipe.kl_reduction)


def feature(student: Taps, teacher: Taps, labels: Tensor, recipe: Recipe) -> Tensor:
    distance = feature_cosine if recipe.feature_loss == "cosine" else feature_pearson
    levels = shared_levels(student.features, teacher.features)
    return torch.stack([distance(student.features[k], teacher.features[k], labels) for k in levels]).mean()


def cwd(student: Taps, teacher: Taps, labels: Tensor, recipe: Recipe) -> Tensor:
    return channel_wise(student.logits, teacher.logits, labels, recipe.cwd_temperature)


def dist(student: Taps, teacher: Taps, labels: Tensor, recipe: Recipe) -> Tensor:
    return relations(student.logits, teacher.logits, labels, recipe.dist_temperature)


def loss_of(term: Term) -> Loss:
    """A term's loss, imported where it is named by its path."""
    if not isinstance(term.loss, str):
        return term.loss
    module, _, name = term.loss.partition(":")
    loss: Loss = getattr(importlib.import_module(module), name)
    return loss


def needs_teacher(method: str) -> bool:
    return METHODS[method].distils


def counted_terms(method: str, recipe: Recipe) -> list[Term]:
    """A method's terms, without those of weight 0, which are not computed."""
    return [term for term in METHODS[method].terms if getattr(recipe, term.weight.name)]


def side_by_side(methods: tuple[str, ...], *, mixed: bool) -> list[tuple[bool, tuple[str, ...]]]:
    """Groups of methods that train on the same batches, each with whether a teacher teaches it.

    Args:
        mixed: there are images without labels, which only distilled methods train on; else all are together.
    """
    distilled = tuple(method for method in methods if needs_teacher(method))
    others = tuple(method for method in methods if not needs_teacher(method))
    if not mixed:
        return [(bool(distilled), methods)]
    return [(distils, group) for distils, group in ((False, others), (True, distilled)) if group]


def require_something_to_learn(methods: Iterable[str], recipe: Recipe) -> None:
    """Raise BadInput where a recipe's weights leave a method no loss: its training would end as it began."""
    for method in methods:
        declared = METHODS[method]
        weights = [*(["alpha"] if declared.cross_entropy else []), *(term.weight.name for term in declared.terms)]
        if not any(getattr(recipe, weight) for weight in weights):
            raise BadInput(
                f"{' and '.join(weights)}: got 0, expected more than 0 for '{method}', which learns from nothing else: "
                "give it one, or train the others apart, from a teacher that is trained before"
            )


class Objective(nn.Module):
    """A model in training: the network, its adapters when it has any, and the weighted losses.

    Args:
        model: the student (or the teacher in its own training).
        method: one of ``METHODS``.
        recipe: weights, temperatures and forms of the losses; a term of weight 0 is not computed.
        teacher_channels: channels of the teacher's taps; needed by methods that read features.
        class_weights: C floats for cross-entropy, or None.
    """

    class_weights: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        model: SegmentationModel,
        method: str,
        recipe: Recipe,
        teacher_channels: dict[str, int] | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.alpha = recipe.alpha if METHODS[method].cross_entropy else 0.0
        self.terms = counted_terms(method, recipe)
        self._losses = [loss_of(term) for term in self.terms]
        adapted = any(term.adapted for term in self.terms)
        self.levels = shared_levels(model.tap_channels, teacher_channels or {})
        self.adapters = make_adapters(model.tap_channels, teacher_channels or {}, self.levels) if adapted else None
        self.register_buffer("class_weights", class_weights, persistent=False)
        share = recipe.logit_adjustment
        shift = logit_shift(class_weights, share) if class_weights is not None and share else None
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: Tensor, labels: Tensor, teacher: Taps | None) -> dict[str, Tensor]:
        """One forward pass and its losses.

        Args:
            images: N x 3 x H x W float32, normalised.
            labels: N x H x W int64, 255 = ignore.
            teacher: the teacher's taps of the same images; None for methods without a teacher.

        Returns:
            Scalars: "loss" (the weighted sum), "ce", and each of the method's terms by name.
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            taps = self.model.taps(images)
            if self.adapters is not None:
                taps = Taps(taps.logits, {level: self.adapters[level](taps.features[level]) for level in self.levels})
        return self.losses(taps, labels, teacher)

    def losses(self, taps: Taps, labels: Tensor, teacher: Taps | None) -> dict[str, Tensor]:
        """The losses of a pass whose features are projected already; otherwise as ``forward``."""
        logits = taps.logits if self.shift is None else taps.logits + self.shift
        losses = {"ce": cross_entropy(logits, labels, self.class_weights)}
        loss = self.alpha * losses["ce"]
        if teacher is not None:
            for term, loss_of_term in zip(self.terms, self._losses, strict=True):
                losses[term.name] = loss_of_term(taps, teacher, labels, self.recipe)
                loss = loss + getattr(self.recipe, term.weight.name) * losses[term.name]
        return {"loss": loss, **losses}


def logit_shift(class_weights: Tensor, share: float) -> Tensor:
    """What cross-entropy adds to the logits, so that the network's own lack it (Menon et al. 2021).

    Weights w make cross-entropy's best logits log p + log w: rare classes are learnt, and predicted too often. With
    share · log w added in the loss alone, what the network itself has to give is log p + (1 − share) · log w.

    Args:
        class_weights: C; a class of weight 0 is in no label and keeps its logits.

    Returns:
        C x 1 x 1.
    """
    logs = torch.where(class_weights > 0, class_weights, 1).log()
    return (share * logs)[:, None, None]
