"""Slow an ONNX model down by real layers that leave its result bit for bit as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


def add_layers(source: Path, destination: Path, channels: int, repeat: int = 1) -> None:
    """Write ``source`` with ``repeat`` residual branches before its last convolution: x + B(A(x)), where B is zero.

    A widens to ``channels`` and B narrows again, both 1 x 1 convolutions. An engine has to compute them: none looks
    for zero weights.

    Args:
        channels: width of a branch; decides, with ``repeat``, how much slower the model is.

    Raises:
        ValueError: no convolution, or weights that are not initializers.
    """
    model = onnx.load(source)
    graph = model.graph
    weights = {initializer.name: initializer for initializer in graph.initializer}
    convolutions = [i for i, node in enumerate(graph.node) if node.op_type == "Conv" and node.input[1] in weights]
    if not convolutions:
        raise ValueError(f"'{source}' has no convolution whose weights are initializers")
    last = convolutions[-1]
    before = graph.node[last].input[0]
    width = weights[graph.node[last].input[1]].dims[1]
    rng = np.random.default_rng(0)
    nodes = []
    for index in range(repeat):
        name = f"extra{index}"
        shapes = {f"{name}.wide": (channels, width, 1, 1), f"{name}.narrow": (width, channels, 1, 1)}
        for weight, shape in shapes.items():
            values = np.zeros(shape) if weight.endswith("narrow") else rng.normal(size=shape)
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), weight))
        nodes += [
            helper.make_node("Conv", [before, f"{name}.wide"], [f"{name}.a"], name=f"{name}.a"),
            helper.make_node("Conv", [f"{name}.a", f"{name}.narrow"], [f"{name}.b"], name=f"{name}.b"),
            helper.make_node("Add", [before, f"{name}.b"], [f"{name}.out"], name=f"{name}.out"),
        ]
        before = f"{name}.out"
    graph.node[last].input[0] = before
    for offset, node in enumerate(nodes):
        graph.node.insert(last + offset, node)
    onnx.checker.check_model(model)
    onnx.save(model, destination)
