"""From a PyTorch module to an ONNX graph that is lean, checked, and whose layers have PyTorch's names."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from exporters.float32 import names_read
from exporters.layer_names import name_layers
from exporters.resizes import check_resizes, resize_calls
from kdbench.data.preprocessing import Size
from kdbench.errors import RunFailed, one_line
from kdbench.models.layers import layer_weights

INPUT = "image"


def write_graph(module: Any, output: str, size: Size, path: Path, *, dynamic_batch: bool = False) -> None:
    """Trace a ``deployable`` module and write its graph.

    Args:
        module: ``MaskModel`` or ``LogitsModel``.
        output: "mask" or "logits"; also the name of the graph's output.
        size: (H, W) of the input.
        dynamic_batch: leave the batch open (named "batch"), else it is 1.

    Raises:
        RunFailed: torch.onnx cannot export the network, or lowered an operator to something else than PyTorch's.
    """
    import onnx
    import torch

    batch = 2 if dynamic_batch else 1  # torch.export would take a batch of 1 for a constant
    shape = (batch, *size, 3) if output == "mask" else (batch, 3, *size)
    example = torch.zeros(shape, dtype=torch.uint8 if output == "mask" else torch.float32)
    # The permute in a mask model leaves channels-last strides, and torch.export writes each global pooling under them
    # with an as_strided (Reshape and Gather in ONNX). Eager PyTorch runs faster that way, so only the export changes.
    network = module.model
    logits = network.logits
    network.logits = lambda images: logits(images.contiguous())
    try:
        with warnings.catch_warnings():
            # torch.export's own use of a deprecated pytree call (torch 2.13); nothing that a user could mend.
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
            program = torch.onnx.export(
                module, (example,), path, dynamo=True, input_names=[INPUT], output_names=[output],
                dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
                external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:  # a foreign network may hold whatever PyTorch has, and torch.onnx lacks
        raise RunFailed(f"torch.onnx cannot export the network: {export_problem(error, module, example)}") from error
    finally:
        del network.logits
    assert program is not None
    model = onnx.load(path)
    check_resizes(model.graph, resize_calls(program.exported_program))
    if dynamic_batch:
        resize_by_scales(model)
    name_layers(model.graph, layer_weights(network))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        problem = export_problem(error, module, example)
        raise RunFailed(f"torch.onnx made a graph of the network that is no valid ONNX: {problem}") from error
    onnx.save(model, path)


def export_problem(error: BaseException, module: Any, example: Any) -> str:
    """Why an export failed, with the operator where it can be found: the first cause, in one line.

    torch.onnx's own message tells of its steps and asks for a report; what is behind it names the operator, or the
    module fails in PyTorch as well, whose last call is the operator.
    """
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    operator = failing_operator(module, example)
    return one_line(f"{f'{operator}: ' if operator else ''}{cause}", 300)


def failing_operator(module: Any, example: Any) -> str | None:
    """The PyTorch operator at which a module stops, or None where it runs."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        failed: str | None = None

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            try:
                return function(*args, **(kwargs or {}))
            except Exception:
                self.failed = self.failed or str(function).rpartition(".")[0]
                raise

    watch = Watch()
    try:
        with torch.inference_mode(), watch:
            module(example)
    except Exception:  # the one that is asked for
        return watch.failed
    return None


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
            used |= names_read(node)
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def describe_graph(model: Any) -> dict[str, Any]:
    """What an ONNX file's sidecar says of its graph."""
    return {
        "inputs": [describe_value(value) for value in model.graph.input],
        "outputs": [describe_value(value) for value in model.graph.output],
        "opset": next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        "nodes": len(model.graph.node),
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
    }


def describe_value(value: Any) -> dict[str, Any]:
    """Name, dtype and shape of a graph's input or output; an open dimension is its name."""
    from onnx import TensorProto

    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": TensorProto.DataType.Name(tensor.elem_type).lower(),
        "shape": [d.dim_param or d.dim_value for d in tensor.shape.dim],
    }
