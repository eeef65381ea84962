"""An ONNX graph in float16, by ONNX Runtime's own converter."""

from __future__ import annotations

from pathlib import Path

from exporters.layer_names import name_unnamed
from exporters.wrap import BORDER


def half_graph(source: Path, destination: Path) -> None:
    """Write a wrapped file with float16 weights and activations; what was put around the network stays in float32.

    The converter blocks operators that engines lack in float16, and puts casts around them.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(source)
    kept = [node.name for node in model.graph.node if node.name.startswith(BORDER)]
    name_unnamed(model.graph)
    half = OnnxModel(convert_float_to_float16(model, keep_io_types=True, node_block_list=kept))
    half.topological_sort()  # the converter appends its casts
    onnx.save(half.model, destination)
