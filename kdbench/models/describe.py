"""What a network is made of: parameters and GFLOPs by stage, and the shapes of what distillation reads.

Nothing is computed: the pass runs on torch's meta device, where tensors have shapes and no values (on the CPU where a
network cannot be built there).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdbench.data.preprocessing import Size
from kdbench.models.network import Network
from kdbench.models.registry import cheaply_built, tried, unfused_attention
from kdbench.models.segmentation import SegmentationModel
from kdbench.runs.files import SCHEMA_VERSION


def describe(network: Network | str, classes: int, size: Size) -> dict[str, Any]:
    """Count one image of H x W = ``size`` through a network.

    FLOPs are those that torch's FlopCounterMode counts, convolutions and matrix products, a multiply-add as two; what
    it does not count (normalisation, activations, resizing) is 0 here as in the comparison.

    Returns:
        {"arch", "classes", "size", "params", "gflops", "stages": [{"name", "params", "gflops"}],
        "input", "taps": [{"name", "stride", "channels", "size"}]}; the taps are low, mid, high, as far as the network
        has them, with the module's path where a pass has found it, and the logits before the final upsampling.

    Raises:
        BadInput: no such architecture, or it does not take images of that size.
    """
    network = Network(network) if isinstance(network, str) else network
    network = tried(network, classes, size, "network")
    model = cheaply_built(network, classes).eval()
    image = torch.zeros(1, 3, *size, device=next(model.parameters()).device)
    flops: dict[str, int] = {}
    with FlopCounterMode(display=False) as counter, torch.no_grad(), unfused_attention():
        for name, module in model.named_modules():
            if not list(module.children()):
                count_flops_of(module, name, counter, flops)
        taps = model.taps(image)
    maps = {**taps.features, "logits": taps.logits}
    return {
        "schema_version": SCHEMA_VERSION,
        **network.fields(),
        "input": model.input.as_json(),
        "classes": classes,
        "size": list(size),
        "params": sum(p.numel() for p in model.parameters()),
        "gflops": counter.get_total_flops() / 1e9,
        "stages": [
            {
                "name": stage,
                "params": sum(p.numel() for name, p in model.named_parameters() if stage_of(model, name) == stage),
                "gflops": sum(count for name, count in flops.items() if stage_of(model, name) == stage) / 1e9,
            }
            for stage in model.stages
        ],
        "taps": [
            {
                "name": name,
                "stride": round(size[0] / tensor.shape[2]),
                "channels": tensor.shape[1],
                "size": list(tensor.shape[2:]),
                **({"module": tap.module} if (tap := network.taps.get(name)) else {}),
            }
            for name, tensor in maps.items()
        ],
    }


def count_flops_of(module: nn.Module, name: str, counter: FlopCounterMode, flops: dict[str, int]) -> None:
    """Add what the counter counts while ``module`` runs to ``flops[name]``.

    The counter's own breakdown by module would not do: the student slices its encoder, and a slice renames its parts.
    """
    started = 0

    def before(*_: Any) -> None:
        nonlocal started
        started = counter.get_total_flops()

    def after(*_: Any) -> None:
        flops[name] = flops.get(name, 0) + counter.get_total_flops() - started

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def stage_of(model: SegmentationModel, name: str) -> str | None:
    """The stage that a module or parameter belongs to: that of the longest prefix, in whole components."""
    found = [stage for stage, parts in model.stages.items() if any(f"{name}.".startswith(f"{p}.") for p in parts)]
    return found[0] if found else None
