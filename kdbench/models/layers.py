"""The layers of a network: what multiplies by trained weights, which is where the time goes and what int8 quantises."""

from __future__ import annotations

from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""Weights that ``nn.MultiheadAttention`` multiplies by itself; that of its output is a Linear."""


def layer_weights(model: nn.Module) -> dict[str, Tensor]:
    """Name of every convolution and linear layer → its weight, in the order of the modules.

    A layer has its module's name; the projection inside an ``nn.MultiheadAttention`` is called "<module>.in_proj".
    """
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            found[name] = module.weight
        elif isinstance(module, nn.MultiheadAttention):
            for key in ATTENTION_WEIGHTS:
                if isinstance(weight := getattr(module, key), Tensor):
                    found[f"{name}.{key.removesuffix('_weight')}"] = weight
    return found


def layer_kinds(model: nn.Module) -> str:
    """What a person calls the layers of a network."""
    linear = any(isinstance(module, nn.Linear | nn.MultiheadAttention) for module in model.modules())
    return "convolutions and linear layers" if linear else "convolutions"
