"""A graph in float16 made one in float32: the reference that every other precision is held against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

TYPES = ("to", "dtype", "output_dtype")
"""Attributes that name a type."""


def in_float32(model: Any) -> None:
    """Turn every float16 tensor of an ``onnx.ModelProto`` into float32, in place; subgraphs and functions too."""
    from onnx import TensorProto, numpy_helper

    for graph in (model.graph, *(sub for node in every_node(model) for sub in graphs_in(node))):
        tensors = [(constant, constant.name) for constant in graph.initializer]
        values = (*graph.input, *graph.output, *graph.value_info)
        for value in values:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for tensor, name in tensors:
            if tensor.data_type == TensorProto.FLOAT16:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))
    for node in every_node(model):
        for attribute in node.attribute:
            if attribute.name in TYPES and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                array = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))


def every_node(model: Any) -> Iterator[Any]:
    """The nodes of a model, of its functions and of the graphs inside nodes."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [inner for graph in graphs_in(node) for inner in graph.node]


def graphs_in(node: Any) -> list[Any]:
    """The bodies of an If, a Loop or a Scan."""
    single = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return single + [graph for attribute in node.attribute for graph in attribute.graphs]


def names_read(node: Any) -> set[str]:
    """Every name that a node reads, the graphs inside it included, which read from outside without saying so."""
    names = set(node.input)
    for graph in graphs_in(node):
        names |= {value.name for value in graph.output}
        names |= {name for inner in graph.node for name in names_read(inner)}
    return names
