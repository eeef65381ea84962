"""One pass of a network in which nothing is computed: does it take the size, what comes out, where can it be tapped.

Finding taps: modules are looked at in the order in which they first ran. One that keeps its input's grid or halves it
once is a step of the encoder and is not looked into; any other is. A tap of stride s is the last step at s before the
grid is halved again; at the coarsest grid, the last of the steps beside the first one, because what follows elsewhere
is a decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.data.preprocessing import Size
from kdbench.errors import BadInput
from kdbench.models.foreign import logits_of
from kdbench.models.network import Tap
from kdbench.models.segmentation import LEVELS

STRIDES = dict(zip(LEVELS, (4, 8, 16), strict=True))
MOST = 64
"""The coarsest grid that is looked for."""


@dataclass
class _Step:
    """What a module did when it first ran: strides of the grids of its input and output, None where there is none."""

    before: int | None
    after: int | None
    channels: int
    layout: str


def trace(net: nn.Module, classes: int, size: Size, name: str) -> dict[str, Tap]:
    """Run one image of zeros through a network on torch's meta device, and find its taps.

    Args:
        net: on the meta device, or with weights: then the pass is a real one.
        name: for errors.

    Returns:
        level → tap, without levels that the network lacks.

    Raises:
        BadInput: it returns no logits. Whatever else the network raises.
    """
    steps: dict[str, _Step] = {}
    paths = {module: path for path, module in net.named_modules()}
    first = next(net.parameters(), torch.empty(0))

    def note(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        path = paths[module]
        if path in steps:
            return
        last[path] = output
        tensors = [value for value in (*inputs, *keywords.values()) if isinstance(value, Tensor)]
        after, channels, layout = _grid(_alone(output), size)
        steps[path] = _Step(_grid(tensors[0] if tensors else None, size)[0], after, channels, layout)

    order: list[str] = []
    last: dict[str, Any] = {}

    def enter(module: nn.Module, inputs: Any) -> None:
        if paths[module] not in order:
            order.append(paths[module])

    handles = []
    for module in paths:
        handles += [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(note, with_kwargs=True),
        ]
    was_training = net.training
    try:
        with torch.no_grad():
            image = torch.zeros(1, 3, *size, device=first.device)
            logits = logits_of(net.eval()(image), classes, name)
    finally:
        net.train(was_training)
        for handle in handles:
            handle.remove()
    segments = _segments(net, "", steps, order)
    # A map with a channel for each class is a prediction, wherever in the network it is made.
    features = [path for path in segments if last[path] is not logits and steps[path].channels != classes]
    return _taps(features or segments, steps)


def _alone(output: Any) -> Tensor | None:
    """A module's only map: several, as an encoder's, say nothing of the module as a step."""
    if isinstance(output, list | tuple):
        maps = [value for value in output if isinstance(value, Tensor) and value.ndim in (3, 4)]
        return maps[0] if len(maps) == 1 and maps[0] is output[0] else None
    return output if isinstance(output, Tensor) else None


def _grid(tensor: Tensor | None, size: Size) -> tuple[int | None, int, str]:
    """(stride, channels, layout) of a feature map; stride None where it is none."""
    if tensor is None or tensor.ndim not in (3, 4):
        return None, 0, "map"
    stride = 1
    while stride <= MOST:
        height, width = (-(-side // stride) for side in size)
        if tensor.ndim == 3 and tensor.shape[1] == height * width:
            return stride, tensor.shape[2], "tokens"
        if tensor.ndim == 4 and _near(tensor.shape[2:], (height, width)):
            return stride, tensor.shape[1], "map"
        if tensor.ndim == 4 and _near(tensor.shape[1:3], (height, width)):
            return stride, tensor.shape[3], "channels-last"
        stride *= 2
    return None, 0, "map"


def _near(shape: torch.Size, grid: tuple[int, int]) -> bool:
    """Whether sides are those of a grid; a network that rounds down has one less."""
    return all(0 <= expected - int(side) <= (expected > 8) for side, expected in zip(shape, grid, strict=True))


def _segments(module: nn.Module, path: str, steps: dict[str, _Step], order: list[str]) -> list[str]:
    """Paths of the encoder's steps, in the order in which they ran."""
    children = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
    found = []
    for child in sorted((c for c in children if c in order), key=order.index):
        step = steps.get(child)
        if step is not None and step.after is not None and step.after in (step.before, 2 * (step.before or 0)):
            found.append(child)
        else:
            found += _segments(module.get_submodule(child[len(path) + bool(path) :]), child, steps, order)
    # A container that never ran itself, as a ModuleList, has children that did.
    waiting = [c for c in children if c not in order]
    for child in waiting:
        found += _segments(module.get_submodule(child[len(path) + bool(path) :]), child, steps, order)
    return sorted(found, key=order.index) if waiting else found


def _taps(segments: list[str], steps: dict[str, _Step]) -> dict[str, Tap]:
    strides = [steps[path].after or 0 for path in segments]
    coarsest = max(strides, default=0)
    end = strides.index(coarsest) if strides else 0
    found = {}
    for level, stride in STRIDES.items():
        if stride < coarsest:
            until = next((i for i, s in enumerate(strides) if s > stride), end)
            before = [path for path, s in zip(segments[:until], strides, strict=False) if s == stride]
        else:
            parent = segments[end].rpartition(".")[0] if segments else ""
            before = []
            for path, s in zip(segments[end:], strides[end:], strict=True):
                if s != stride or path.rpartition(".")[0] != parent:
                    break
                before.append(path)
        if before:
            step = steps[before[-1]]
            found[level] = Tap(before[-1], stride, step.channels, step.layout)
    return found


def chosen_taps(net: nn.Module, named: dict[str, Tap], classes: int, size: Size, name: str) -> dict[str, Tap]:
    """What a pass shows of taps that a person names by their modules' paths.

    Raises:
        BadInput: a level or module that there is not, or one that returns no feature map.
    """
    found = {}
    for level, tap in named.items():
        modules = dict(net.named_modules())
        if level not in LEVELS or tap.module not in modules:
            what = f"level '{level}'" if level not in LEVELS else f"module '{tap.module}'"
            raise BadInput(
                f"taps of '{name}': got {what}, expected {', '.join(LEVELS)}, each with the path of one of its modules"
            )
        seen: list[Any] = []
        handle = modules[tap.module].register_forward_hook(lambda m, i, output, seen=seen: seen.append(output))
        try:
            with torch.no_grad():
                first = next(net.parameters(), torch.empty(0))
                net.eval()(torch.zeros(1, 3, *size, device=first.device))
        finally:
            handle.remove()
        output = seen[0][0] if seen and isinstance(seen[0], list | tuple) else seen[0] if seen else None
        stride, channels, layout = _grid(output if isinstance(output, Tensor) else None, size)
        if stride is None:
            raise BadInput(
                f"taps of '{name}': '{tap.module}' returns no feature map, expected N x K x h x w: name another"
            )
        found[level] = Tap(tap.module, stride, channels, layout)
    return found
