"""A network that was not written for kdbench, as one that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from kdbench.errors import BadInput
from kdbench.models.network import Tap
from kdbench.models.segmentation import Published, SegmentationModel, Taps

PREFIX = "net."


class ForeignModel(SegmentationModel):
    """Wraps any module from N x 3 x H x W images to logits.

    Its state dict has the names that the module has by itself, so that its owner can load a checkpoint back.

    Args:
        net: the module; logits are what it returns: a tensor, ``.logits``, ``["out"]``, or the first of a tuple.
        classes: C.
        taps: level → feature map that distillation reads; may lack levels.
        name: of the network, for errors.
    """

    weights: Callable[[], dict[str, Callable[[], Published]]] = staticmethod(dict)
    """What ``published`` returns, as the network's source knows it."""

    def __init__(self, net: nn.Module, classes: int, taps: dict[str, Tap], name: str) -> None:
        super().__init__()
        self.net, self.classes, self.name = net, classes, name
        self.tap_modules = taps
        self.tap_channels = {level: tap.channels for level, tap in taps.items()}
        self.stages = {part: (f"{PREFIX}{part}",) for part, _ in net.named_children()}
        self.register_state_dict_post_hook(_without_prefix)
        self.register_load_state_dict_pre_hook(_with_prefix)

    def published(self) -> dict[str, Callable[[], Published]]:
        return self.weights()

    def logits(self, images: Tensor) -> Tensor:
        return logits_of(self.net(images), self.classes, self.name)

    def taps(self, images: Tensor) -> Taps:
        kept: dict[str, Tensor] = {}

        def keep(level: str, module: nn.Module, inputs: Any, output: Any) -> None:
            kept[level] = first_tensor(output)

        # Hooks of this pass alone: copies of the network, as for float16, would keep those of the original.
        handles = [
            self.net.get_submodule(tap.module).register_forward_hook(partial(keep, level))
            for level, tap in self.tap_modules.items()
        ]
        try:
            logits = self.logits(images)
        finally:
            for handle in handles:
                handle.remove()
        height, width = images.shape[-2:]
        return Taps(
            logits,
            {level: as_map(kept[level], tap, (height, width)) for level, tap in self.tap_modules.items()},
        )


def logits_of(output: Any, classes: int, name: str) -> Tensor:
    """The logits in what a network returns: N x C x h x w.

    Raises:
        BadInput: there are none of that shape.
    """
    found = output
    if not isinstance(output, Tensor):
        if hasattr(output, "logits"):
            found = output.logits
        elif isinstance(output, Mapping):
            found = output.get("out", output.get("logits"))
        elif isinstance(output, list | tuple) and output:
            found = output[0]
    if not isinstance(found, Tensor):
        told = f"a dict with {', '.join(map(str, output))}" if isinstance(output, Mapping) else type(output).__name__
        raise BadInput(
            f"network '{name}' returned {told:.120}, expected logits: a tensor, .logits, ['out'] or the first of a "
            "tuple"
        )
    if found.ndim != 4 or found.shape[1] != classes:
        shape = " x ".join(map(str, found.shape))
        raise BadInput(
            f"network '{name}' returned {shape}, expected N x {classes} x h x w logits, one channel for each class of "
            "the dataset: let its function take the number of classes"
        )
    return found


def first_tensor(output: Any) -> Tensor:
    """A module's output, or the first of several."""
    found = output[0] if isinstance(output, list | tuple) else output
    assert isinstance(found, Tensor)
    return found


def as_map(output: Tensor, tap: Tap, size: tuple[int, int]) -> Tensor:
    """A module's output as N x K x h x w.

    Args:
        size: (H, W) of the image, from which the grid of tokens follows.
    """
    if tap.layout == "tokens":
        height, width = (-(-side // tap.stride) for side in size)
        return output.transpose(1, 2).reshape(output.shape[0], -1, height, width)
    return output.permute(0, 3, 1, 2) if tap.layout == "channels-last" else output


def _without_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    _rename(state, prefix + PREFIX, prefix)


def _with_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state, prefix, prefix + PREFIX)


def _rename(state: dict[str, Any], before: str, after: str) -> None:
    """All at once: a network that has a ``net`` of its own has names that others of its names turn into."""
    moved = {key: state.pop(key) for key in list(state) if key.startswith(before)}
    state.update({after + key.removeprefix(before): value for key, value in moved.items()})
