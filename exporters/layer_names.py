"""PyTorch's names for the nodes that multiply, so that one name means one layer in every format and every list."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

LAYER_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SCOPES = "pkg.torch.onnx.name_scopes"
"""torch.onnx's entry in a node's metadata: the modules around the call, outermost first, then the call itself."""
BEHIND_NAME = re.compile("[#/]")
CALL_NUMBER = re.compile(r"_\d+$")
PREFIX = "model."
"""Of names in a graph, where the network is inside a ``MaskModel`` or ``LogitsModel``."""


def name_layers(graph: Any, layers: Collection[str]) -> None:
    """Give every convolution and matrix product the name of its PyTorch layer, as "encoder.4.block.0.0".

    A product of two activations has no layer; it gets the module and the call, as
    "blocks.0.attention.scaled_dot_product_attention". What a name stands for twice gets "#2" behind the second.

    Args:
        layers: names of the network's layers, as of ``layer_weights``.
    """
    constants = {constant.name for constant in graph.initializer}
    times: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in LAYER_OPERATORS:
            name = _layer_name(node, constants, layers)
            times[name] += 1
            node.name = name if times[name] == 1 else f"{name}#{times[name]}"


def name_unnamed(graph: Any) -> None:
    """Give every node without a name one of its own: quantisers are told by names what to leave in float."""
    taken = {node.name for node in graph.node}
    for index, node in enumerate(graph.node):
        if not node.name:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name


def nodes_named(layers: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of the node names that belong to one of the layers.

    A layer that is called twice has two nodes; optimisers and OpenVINO's frontend put a "/" and a word of their own
    behind the name where they join or split a node, as in "head/MatMulAddFusion" and "stem/WithoutBiases".
    """
    wanted = set(layers)
    return [name for name in names if BEHIND_NAME.split(name)[0] in wanted]


def _layer_name(node: Any, constants: Collection[str], layers: Collection[str]) -> str:
    weight = node.input[1]
    if weight in constants and weight.startswith(PREFIX):
        return weight.removeprefix(PREFIX).removesuffix("weight").rstrip("._")
    scopes = _scopes(node)
    if not scopes:
        return node.name
    *_, module, call = ("", *scopes)
    module = f"{module}.".removeprefix(PREFIX).removesuffix(".")
    # The exporter keeps a transposed weight as a constant without a name; the module that holds it is in the scopes.
    if weight in constants:
        for known in (module, f"{module}.in_proj"):
            if known in layers:
                return known
    return f"{module}.{CALL_NUMBER.sub('', call)}".lstrip(".")


def _scopes(node: Any) -> list[str]:
    text = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    return [str(scope) for scope in ast.literal_eval(text)]
