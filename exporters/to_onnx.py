"""A trained student to an ONNX file, compared with PyTorch on real images before it is kept."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.parity import compare_outputs, require_parity
from kdbench.artifacts import SCHEMA_VERSION, RunTree, atomic_path, sha256, sidecar_path, write_json
from kdbench.backends.onnx_runtime import OnnxBackend
from kdbench.backends.torch_eager import TorchBackend
from kdbench.data.preprocessing import Size
from kdbench.environment import environment
from kdbench.errors import RunFailed
from kdbench.models.deploy import deployable, load_model

PRECISION = "fp32"


def export_onnx(
    tree: RunTree, method: str, *, output: str, size: Size | None, images: Sequence[NDArray[np.uint8]]
) -> Path:
    """Export, check, run in ONNX Runtime beside PyTorch, and only then put the file in its place.

    Args:
        output: "logits" or "mask".
        size: (H, W) of the input; None = that of training.
        images: real H x W x 3 uint8 images, any size, for the comparison.

    Returns:
        Path of the ``.onnx`` file; its sidecar is beside it.

    Raises:
        Missing: the method was not trained. RunFailed: the graph or its outputs are not the model's.
    """
    import onnx

    checkpoint = tree.checkpoint(method)
    model, trained = load_model(checkpoint, f"kdbench train --method {method} --dataset {tree.dataset}")
    height, width = size or trained["size"]
    path = tree.export(method, "onnx", PRECISION, output)
    with atomic_path(path) as temporary:
        _write_graph(deployable(model, output), output, (height, width), temporary)
        graph = onnx.load(temporary)
        onnx.checker.check_model(graph, full_check=True)
        _check_resizes(graph)
        candidate = OnnxBackend.open(temporary, output=output)
        parity = compare_outputs(TorchBackend(model, output=output, size=(height, width)), candidate, images)
        candidate.close()
        require_parity(parity, PRECISION, f"{method} onnx {PRECISION} {output}")
    write_json(
        sidecar_path(path),
        {
            "schema_version": SCHEMA_VERSION,
            "kind": "export",
            "format": "onnx",
            "precision": PRECISION,
            "output": output,
            "method": method,
            "dataset": tree.dataset,
            "classes": trained["classes"],
            "palette": trained["palette"],
            "size": [height, width],
            "inputs": [_describe(value) for value in graph.graph.input],
            "outputs": [_describe(value) for value in graph.graph.output],
            "opset": graph.opset_import[0].version,
            "nodes": len(graph.graph.node),
            "operators": dict(Counter(node.op_type for node in graph.graph.node).most_common()),
            "checkpoint_sha256": trained["sha256"],
            "parity": parity.as_json(),
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
            "environment": environment(),
        },
    )
    return path


def _write_graph(module: Any, output: str, size: Size, path: Path) -> None:
    """Trace the module with a static input of batch 1."""
    import torch

    shape = (1, *size, 3) if output == "mask" else (1, 3, *size)
    example = torch.zeros(shape, dtype=torch.uint8 if output == "mask" else torch.float32)
    # The permute in a mask model leaves channels-last strides, and torch.export writes each global pooling under them
    # with an as_strided (Reshape and Gather in ONNX). Eager PyTorch runs faster that way, so only the export changes.
    hook = module.model.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    with warnings.catch_warnings():
        # torch.export's own use of a deprecated pytree call (torch 2.13); nothing that a user could mend.
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
        torch.onnx.export(
            module, (example,), path, dynamo=True, input_names=["image"], output_names=[output],
            external_data=False, verbose=False,
        )  # fmt: skip
    hook.remove()


def _check_resizes(graph: Any) -> None:
    """Every Resize must do what PyTorch's interpolate does.

    Raises:
        RunFailed: an exporter lowered one with other coordinates, which shifts the mask by up to half a stride.
    """
    from onnx.helper import get_attribute_value

    for node in graph.graph.node:
        if node.op_type == "Resize":
            attributes = {a.name: get_attribute_value(a) for a in node.attribute}
            mode = attributes.get("mode", b"nearest").decode()
            coordinates = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
            if mode != "linear" or coordinates not in ("half_pixel", "pytorch_half_pixel"):
                raise RunFailed(
                    f"ONNX node '{node.name}': got a {mode} Resize with {coordinates} coordinates, expected linear "
                    "with half_pixel: this torch.onnx lowers interpolate differently; use the pinned version"
                )


def _describe(value: Any) -> dict[str, Any]:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": TensorProto.DataType.Name(tensor.elem_type).lower(),
        "shape": [dimension.dim_value for dimension in tensor.shape.dim],
    }
