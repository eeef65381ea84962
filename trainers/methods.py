"""The methods: which losses a student trains with. L = α·CE + β·L_response + γ·L_feature.

baseline   CE alone
response   CE and KL on softened logits
feature    CE and the distance of adapted features at three strides
combined   all three

To add a method, add its loss to ``losses.py`` and its term to ``Objective.forward``; the loop does not change.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdbench.models.segmentation import LEVELS, SegmentationModel, Taps
from trainers.adapters import make_adapters
from trainers.losses import cross_entropy, feature_cosine, feature_pearson, response_kl
from trainers.recipe import Recipe

USES_RESPONSE = ("response", "combined")
USES_FEATURES = ("feature", "combined")


def needs_teacher(method: str) -> bool:
    return method in USES_RESPONSE or method in USES_FEATURES


class Objective(nn.Module):
    """A model in training: the network, its adapters when it has any, and the weighted losses.

    Args:
        model: the student (or the teacher in its own training).
        method: one of ``METHODS``; teacher and baseline train with cross-entropy alone.
        recipe: weights, temperature and forms of the losses.
        teacher_channels: channels of the teacher's taps; needed by feature and combined.
        class_weights: C floats for cross-entropy, or None.
    """

    class_weights: Tensor | None

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
        self.beta = recipe.beta if method in USES_RESPONSE else 0.0
        self.gamma = recipe.gamma if method in USES_FEATURES else 0.0
        self.adapters = make_adapters(model.tap_channels, teacher_channels or {}) if self.gamma else None
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, images: Tensor, labels: Tensor, teacher: Taps | None) -> dict[str, Tensor]:
        """One forward pass and its losses.

        Args:
            images: N x 3 x H x W float32, normalised.
            labels: N x H x W int64, 255 = ignore.
            teacher: the teacher's taps of the same images; None for methods without a teacher.

        Returns:
            Scalars: "loss" (the weighted sum), "ce", and, where the method has them, "response" and "feature".
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            taps = self.model.taps(images)
            adapted = {} if self.adapters is None else {k: self.adapters[k](taps.features[k]) for k in LEVELS}
        losses = {"ce": cross_entropy(taps.logits, labels, self.class_weights)}
        loss = self.recipe.alpha * losses["ce"]
        if self.beta and teacher is not None:
            losses["response"] = response_kl(
                taps.logits, teacher.logits, labels, self.recipe.temperature, self.recipe.kl_reduction
            )
            loss = loss + self.beta * losses["response"]
        if self.gamma and teacher is not None:
            distance = feature_cosine if self.recipe.feature_loss == "cosine" else feature_pearson
            levels = [distance(adapted[level], teacher.features[level], labels) for level in LEVELS]
            losses["feature"] = torch.stack(levels).mean()
            loss = loss + self.gamma * losses["feature"]
        return {"loss": loss, **losses}
