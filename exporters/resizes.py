"""Every Resize of an exported graph against the call of the traced program that it was made from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kdbench.errors import RunFailed

FAITHFUL: dict[str, tuple[tuple[str, ...], ...]] = {
    "bilinear": (("linear", "half_pixel"), ("linear", "pytorch_half_pixel")),
    "bilinear with align_corners": (("linear", "align_corners"),),
    "bicubic": (("cubic", "half_pixel"), ("cubic", "pytorch_half_pixel")),
    "bicubic with align_corners": (("cubic", "align_corners"),),
    "nearest": (("nearest", "asymmetric", "floor"),),
    "nearest-exact": (("nearest", "half_pixel", "round_prefer_ceil"),),
}
"""What PyTorch was asked for → mode, coordinates and (of nearest) rounding of the ONNX nodes that do the same.

Antialiasing is not among them: what ONNX does for it is not what PyTorch does.
"""
CUBIC_COEFFICIENT = -0.75
"""PyTorch's; ONNX leaves it to the node."""
CALL = re.compile(r"aten::_?upsample_(nearest_exact|nearest|bilinear|bicubic|linear|trilinear)\dd(_aa)?$")


def resize_calls(program: Any) -> dict[str, str]:
    """Each resizing call of an exported program: its name in the program → what it asks for, as in ``FAITHFUL``.

    Args:
        program: a ``torch.export.ExportedProgram``.
    """
    calls = {}
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or (match := CALL.match(schema.name)) is None:
            continue
        given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | node.kwargs
        calls[node.name] = "".join(
            (
                match[1].replace("_", "-"),
                " with antialias" if match[2] else "",
                " with align_corners" if given.get("align_corners") else "",
            )
        )
    return calls


def check_resizes(graph: Any, calls: Mapping[str, str]) -> None:
    """Every Resize must do what the call does that it was made from.

    torch.onnx names a node by its call. Where a name leads to no call, as after a rewrite, the node must do what one of
    the calls asks for that no other node was made from. There may be fewer nodes than calls: what depends on no image
    is a constant, and what changes nothing is dropped.

    Args:
        graph: of the ONNX model.
        calls: of ``resize_calls``.

    Raises:
        RunFailed: an exporter lowered one with other coordinates, which shifts the mask by up to half a stride.
    """
    nodes = {node.name.removeprefix("node_"): node for node in graph.node if node.op_type == "Resize"}
    free = [call for name, call in calls.items() if name not in nodes]
    for name, node in nodes.items():
        lowering = _lowering(node)
        wanted = [calls[name]] if name in calls else free
        does = next((call for call in wanted if lowering in FAITHFUL.get(call, ())), None)
        if does is None:
            same = [" with ".join(FAITHFUL[call][0][:2]) for call in dict.fromkeys(wanted) if call in FAITHFUL]
            raise RunFailed(
                f"ONNX node '{node.name}': got a {lowering[0]} Resize with {' and '.join(lowering[1:])} coordinates, "
                f"expected {' or '.join(same) or 'none'}, for PyTorch calls for "
                f"{' or '.join(dict.fromkeys(wanted)) or 'no resizing'} there: this torch.onnx lowers interpolate "
                "differently; use the pinned version, or a resizing that ONNX has"
            )
        if name not in calls:
            free.remove(does)


def _lowering(node: Any) -> tuple[str, ...]:
    """Mode, coordinates, and whatever else makes it another Resize."""
    from onnx.helper import get_attribute_value

    given = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    mode = given.get("mode", b"nearest").decode()
    parts = [mode, given.get("coordinate_transformation_mode", b"half_pixel").decode()]
    if mode == "nearest":
        parts.append(given.get("nearest_mode", b"round_prefer_floor").decode())
    coefficient = given.get("cubic_coeff_a", CUBIC_COEFFICIENT)
    if mode == "cubic" and abs(coefficient - CUBIC_COEFFICIENT) > 1e-6:
        parts.append(f"coefficient {coefficient:g}")
    parts += [name for name in ("antialias", "exclude_outside") if given.get(name)]
    return tuple(parts)
