"""SegFormer (Xie et al. 2021) of transformers, ``segformer_b0`` to ``segformer_b5``, by configuration alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdbench.errors import BadInput

SIZES: dict[str, dict[str, Any]] = {
    "b0": {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b1": {"hidden_sizes": [64, 128, 320, 512], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b2": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 768},
    "b3": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 18, 3], "decoder_hidden_size": 768},
    "b4": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 8, 27, 3], "decoder_hidden_size": 768},
    "b5": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 6, 40, 3], "decoder_hidden_size": 768},
}
"""Of the paper's table 6."""


def build(name: str, classes: int, kwargs: dict[str, Any]) -> nn.Module:
    """A SegFormer with fresh weights; ``kwargs`` are those of ``SegformerConfig``."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    family, _, size = name.partition("_")
    if family != "segformer" or size not in SIZES:
        raise BadInput(f"transformers:{name:.80}: expected one of {', '.join(f'segformer_{size}' for size in SIZES)}")
    settings = {**SIZES[size], "num_labels": classes, **kwargs}
    network: nn.Module = SegformerForSemanticSegmentation(SegformerConfig(**settings))
    return network
