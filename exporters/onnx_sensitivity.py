"""Which layers 8 bits hurt, for an ONNX graph without its PyTorch model: as ``sensitivity``, in ONNX Runtime.

A layer is a convolution or matrix product whose second factor is a constant. Its weight is rounded, and its input goes
through a QuantizeLinear and DequantizeLinear with percentile ranges; everything else stays in float.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.layer_names import LAYER_OPERATORS
from exporters.mask_logits import return_logits
from exporters.quantise import SHARE_INSIDE
from exporters.sensitivity import LayerError
from kdbench.backends.onnx_runtime import open_session
from kdbench.machine.cores import answer_threads
from kdbench.machine.scratch import ScratchFolder

VALUES = 200_000
"""Activations that percentiles are taken of, evenly spread over a tensor."""


def weighted_layers(graph: Any) -> dict[str, Any]:
    """Name → node of each layer that has a weight."""
    constants = {constant.name for constant in graph.initializer}
    return {
        node.name: node for node in graph.node if node.op_type in LAYER_OPERATORS and node.input[1] in constants
    }  # fmt: skip


def layer_errors(source: Path, batches: Sequence[NDArray[Any]]) -> list[LayerError]:
    """The error of each layer, worst first; [] for a graph whose logits or weights cannot be looked at.

    Args:
        source: a wrapped file.
        batches: its inputs, one image each.
    """
    import onnx

    model = onnx.load(source)
    if model.graph.output[0].name != "logits" and not return_logits(model):
        return []
    if not weighted_layers(model.graph):  # weights that are computed, from float16 for example
        return []
    ranges = _input_ranges(model, batches)
    with _session(model) as run:
        expected = np.concatenate([run(batch)[0] for batch in batches])
    errors = []
    for name, node in weighted_layers(model.graph).items():
        with _rounded(model.graph, node, ranges[node.input[0]]), _session(model) as run:
            got = np.concatenate([run(batch)[0] for batch in batches])
        error = float(np.linalg.norm(got - expected) / (np.linalg.norm(expected) or 1.0))
        errors.append(LayerError(name, error, float((got.argmax(1) != expected.argmax(1)).mean())))
    return sorted(errors, key=lambda error: -error.logit_error)


def _input_ranges(model: Any, batches: Sequence[NDArray[Any]]) -> dict[str, tuple[float, float]]:
    """Percentiles of what each layer reads, with zero between them."""
    import onnx

    names = sorted({node.input[0] for node in weighted_layers(model.graph).values()})
    watched = type(model)()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    found = dict.fromkeys(names, (0.0, 0.0))
    with _session(watched) as run:
        for batch in batches:
            for name, values in zip(names, run(batch), strict=True):
                flat = values.reshape(-1)
                low, high = np.quantile(flat[:: max(1, flat.size // VALUES)], [1 - SHARE_INSIDE, SHARE_INSIDE])
                found[name] = (min(found[name][0], float(low)), max(found[name][1], float(high)))
    return found


@contextmanager
def _session(model: Any) -> Iterator[Any]:
    """A function from an input to all outputs."""
    import onnx

    with ScratchFolder("sensitivity") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        session, _ = open_session(path, threads=answer_threads(), spinning=False)
        name = session.get_inputs()[0].name
        yield lambda batch: session.run(None, {name: batch})


@contextmanager
def _rounded(graph: Any, node: Any, between: tuple[float, float]) -> Iterator[None]:
    """One layer in 8 bits while the block runs."""
    from onnx import helper, numpy_helper

    weight = next(constant for constant in graph.initializer if constant.name == node.input[1])
    before, read = weight.SerializeToString(), node.input[0]
    scale = max((between[1] - between[0]) / 255, 1e-12)
    zero = int(np.clip(round(-between[0] / scale), 0, 255))
    constants = [
        numpy_helper.from_array(np.array(scale, np.float32), "rounded.scale"),
        numpy_helper.from_array(np.array(zero, np.uint8), "rounded.zero"),
    ]
    parameters = ["rounded.scale", "rounded.zero"]
    pair = [
        helper.make_node("QuantizeLinear", [read, *parameters], ["rounded.integers"]),
        helper.make_node("DequantizeLinear", ["rounded.integers", *parameters], ["rounded.floats"]),
    ]
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(round_weight(values, output_channel(node, values.ndim)), weight.name))
    position = next(index for index, other in enumerate(graph.node) if other.name == node.name)
    for offset, extra in enumerate(pair):
        graph.node.insert(position + offset, extra)
    graph.initializer.extend(constants)
    changed = graph.node[position + len(pair)]
    changed.input[0] = "rounded.floats"
    try:
        yield
    finally:
        changed.input[0] = read
        del graph.node[position : position + len(pair)]
        del graph.initializer[-len(constants) :]
        weight.ParseFromString(before)


def output_channel(node: Any, dimensions: int) -> int:
    """The dimension of a weight that has an entry for each output channel."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Gemm" and turned else dimensions - 1


def round_weight(weight: NDArray[np.float32], channel: int) -> NDArray[np.float32]:
    """Symmetric int8 per output channel, as ``sensitivity.round_weight``."""
    others = tuple(dimension for dimension in range(weight.ndim) if dimension != channel)
    scale = np.maximum(np.abs(weight).max(axis=others, keepdims=True), 1e-12) / 127
    rounded: NDArray[np.float32] = (np.round(weight / scale) * scale).astype(np.float32)
    return rounded
