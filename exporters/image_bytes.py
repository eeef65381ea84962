"""An image's own bytes as the 8-bit input of the first layer, for ONNX Runtime.

Normalising an image in float and rounding the result to 8 bits again takes ONNX Runtime longer than a third of a small
network, because its quantised layers want channels last, where a factor per channel is slow. The image has 8 bits
already. With normalisation folded into the first convolution, that reads the bytes as they are, and nothing is rounded.

One thing is not exact: such a convolution pads with one value, where zero after normalising is another byte in each
channel. The nearest byte to their mean is off by 0.2 standard deviations at the border for ImageNet's means.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from exporters.graph import remove_unused

CENTRED = "image_minus_zero_point"
TO_PLANES = [0, 3, 1, 2]


def fold_normalisation(model: Any, but_not_into: Collection[str] = ()) -> int | None:
    """Let the convolutions that read the normalised image read the image minus one number, in place.

    Args:
        model: float32, in which a uint8 N x H x W x 3 input is cast, transposed, and has a mean subtracted and is
            divided by a standard deviation, both 1 x 3 x 1 x 1 constants, before convolutions alone read it.
        but_not_into: names of nodes that stay in float.

    Returns:
        That number, a byte; None, and nothing changed, where the graph is another.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    chain = _normalisation(graph, constants)
    if chain is None:
        return None
    planes, subtract, divide = chain
    readers = [node for node in graph.node if divide.output[0] in node.input]
    if not readers or not all(
        node.name not in but_not_into and _reads_by_constants(node, divide.output[0], constants) for node in readers
    ):
        return None
    mean, std = (numpy_helper.to_array(constants[node.input[1]]).reshape(-1) for node in (subtract, divide))
    zero_point = int(np.clip(np.round(mean.mean()), 0, 255))
    for node in readers:
        weight = numpy_helper.to_array(constants[node.input[1]]) / std[:, None, None]
        bias = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else np.zeros(len(weight))
        bias = bias + (weight * (zero_point - mean)[:, None, None]).sum((1, 2, 3))
        folded = {f"{node.name}.folded_weight": weight, f"{node.name}.folded_bias": bias}
        graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), name) for name, v in folded.items())
        node.input[:] = [CENTRED, *folded]
    graph.initializer.append(numpy_helper.from_array(np.array(zero_point, np.float32), f"{CENTRED}.constant"))
    node = helper.make_node("Sub", [planes, f"{CENTRED}.constant"], [CENTRED], name=CENTRED)
    graph.node.insert(list(graph.node).index(divide) + 1, node)
    remove_unused(graph)
    return zero_point


def overrides(zero_point: int) -> dict[str, list[dict[str, Any]]]:
    """``TensorQuantOverrides`` by which the rounded centred image is the image's bytes."""
    return {CENTRED: [{"scale": np.array(1, np.float32), "zero_point": np.array(zero_point, np.uint8)}]}


def read_bytes(model: Any) -> None:
    """Put the image itself where a graph, quantised with ``overrides``, rounds the centred image to its bytes."""
    from onnx import helper

    graph = model.graph
    rounding = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == CENTRED)
    planes = helper.make_node(
        "Transpose", [graph.input[0].name], list(rounding.output), name="image_planes", perm=TO_PLANES
    )
    index = list(graph.node).index(rounding)
    graph.node.remove(rounding)
    graph.node.insert(index, planes)
    remove_unused(graph)


def _normalisation(graph: Any, constants: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The transposed image's name, and the nodes that subtract the mean and divide by the standard deviation."""
    found, name = [], graph.input[0].name
    for operator in ("Cast", "Transpose", "Sub", "Div"):
        readers = [node for node in graph.node if name in node.input]
        if len(readers) != 1 or readers[0].op_type != operator or readers[0].input[0] != name:
            return None
        found.append(readers[0])
        name = readers[0].output[0]
    _, transpose, subtract, divide = found
    is_planes = any(a.name == "perm" and list(a.ints) == TO_PLANES for a in transpose.attribute)
    per_channel = all(
        node.input[1] in constants and list(constants[node.input[1]].dims) == [1, 3, 1, 1]
        for node in (subtract, divide)
    )
    return (transpose.output[0], subtract, divide) if is_planes and per_channel else None


def _reads_by_constants(node: Any, name: str, constants: dict[str, Any]) -> bool:
    """Whether a node is a convolution of the tensor, over all three channels, with constant weights."""
    return (
        node.op_type == "Conv"
        and node.input[0] == name
        and all(other in constants for other in node.input[1:])
        and constants[node.input[1]].dims[1] == 3
    )
