"""From a PyTorch module to an ONNX graph that is lean, checked, and whose layers have PyTorch's names."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.data.preprocessing import Size
from kdbench.errors import RunFailed

INPUT = "image"


def write_graph(module: Any, output: str, size: Size, path: Path, *, dynamic_batch: bool = False) -> None:
    """Trace a ``deployable`` module and write its graph.

    Args:
        module: ``MaskModel`` or ``LogitsModel``.
        output: "mask" or "logits"; also the name of the graph's output.
        size: (H, W) of the input.
        dynamic_batch: leave the batch open (named "batch"), else it is 1.

    Raises:
        RunFailed: an operator was lowered to something else than PyTorch's.
    """
    import onnx
    import torch

    batch = 2 if dynamic_batch else 1  # torch.export would take a batch of 1 for a constant
    shape = (batch, *size, 3) if output == "mask" else (batch, 3, *size)
    example = torch.zeros(shape, dtype=torch.uint8 if output == "mask" else torch.float32)
    # The permute in a mask model leaves channels-last strides, and torch.export writes each global pooling under them
    # with an as_strided (Reshape and Gather in ONNX). Eager PyTorch runs faster that way, so only the export changes.
    network = module.model
    taps = network.taps
    network.taps = lambda images: taps(images.contiguous())
    try:
        with warnings.catch_warnings():
            # torch.export's own use of a deprecated pytree call (torch 2.13); nothing that a user could mend.
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
            torch.onnx.export(
                module, (example,), path, dynamo=True, input_names=[INPUT], output_names=[output],
                dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
                external_data=False, verbose=False,
            )  # fmt: skip
    finally:
        del network.taps
    model = onnx.load(path)
    check_resizes(model)
    if dynamic_batch:
        resize_by_scales(model)
    name_convolutions(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def name_convolutions(model: Any) -> None:
    """Give every Conv node the name of the PyTorch module whose weight it holds, as "encoder.4.block.0.0"."""
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.name = node.input[1].removeprefix("model.").removesuffix(".weight")


def resize_by_scales(model: Any) -> None:
    """Give every Resize its two factors as a constant, in place of sizes that are put together from the open batch.

    Sizes need a Shape and a Concat before each Resize, which GPU engines compute on the CPU. Constant sizes of height
    and width alone (the attribute ``axes``) would do as well, but TensorRT's parser refuses them with an open batch.

    Raises:
        RunFailed: the graph does not say the height and width of a Resize.
    """
    import onnx

    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: describe_value(value)["shape"] for value in values}
    for index, node in enumerate(node for node in graph.node if node.op_type == "Resize"):
        sides = [shapes.get(name, [])[2:] for name in (node.input[0], node.output[0])]
        if not all(len(pair) == 2 and all(isinstance(side, int) and side > 0 for side in pair) for pair in sides):
            raise RunFailed(
                f"ONNX node '{node.name}': got a Resize from {sides[0]} to {sides[1]}, expected a height and width "
                "that are numbers: only the batch may be open"
            )
        factors = [scale_factor(small, large) for small, large in zip(*sides, strict=True)]
        name = f"scales_{index}"
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, *factors], np.float32), name))
        node.input[:] = [node.input[0], "", name]
    remove_unused(graph)


def scale_factor(small: int, large: int) -> np.float32:
    """The smallest float32 that is at least large / small: engines round small · factor down to the output's side.

    It is the quotient that engines derive from sizes themselves, or the float after it.
    """
    factor = np.float32(large) / np.float32(small)
    # Exact in 64 bits: a product of a float32 and a small whole number.
    return factor if float(factor) * small >= large else np.nextafter(factor, np.float32(np.inf))


def remove_unused(graph: Any) -> None:
    """Remove nodes and constants whose results nothing reads."""
    used = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):  # in the order of computing: readers come after what they read
        if used.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            used.update(node.input)
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def check_resizes(model: Any) -> None:
    """Every Resize must do what PyTorch's interpolate does.

    Raises:
        RunFailed: an exporter lowered one with other coordinates, which shifts the mask by up to half a stride.
    """
    from onnx.helper import get_attribute_value

    for node in model.graph.node:
        if node.op_type == "Resize":
            attributes = {a.name: get_attribute_value(a) for a in node.attribute}
            mode = attributes.get("mode", b"nearest").decode()
            coordinates = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
            if mode != "linear" or coordinates not in ("half_pixel", "pytorch_half_pixel"):
                raise RunFailed(
                    f"ONNX node '{node.name}': got a {mode} Resize with {coordinates} coordinates, expected linear "
                    "with half_pixel: this torch.onnx lowers interpolate differently; use the pinned version"
                )


def describe_value(value: Any) -> dict[str, Any]:
    """Name, dtype and shape of a graph's input or output; an open dimension is its name."""
    from onnx import TensorProto

    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": TensorProto.DataType.Name(tensor.elem_type).lower(),
        "shape": [d.dim_param or d.dim_value for d in tensor.shape.dim],
    }
