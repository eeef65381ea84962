"""What the layers of a TensorRT engine compute in, by the engine inspector's JSON.

The engine must be built with ``ProfilingVerbosity.DETAILED``; otherwise a layer is only its name. Up to TensorRT 10 a
tensor says "Format/Datatype": "Row major Int8 format" (or "Half", inside fused subgraphs), from 11 on "Format" and
"DataType" apart (NVIDIA's guide "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

COMPUTE = re.compile(r"conv|gemm|matrixmultiply|matmul|fullyconnected", re.IGNORECASE)
"""In "LayerType" or "ParameterType": CaskConvolution, CaskConvActPool, CaskDeconvolutionV2, MatrixMultiply, gemm, …"""
TYPES = (
    ("bf16", re.compile(r"bf16|bfloat16", re.IGNORECASE)),  # before fp16, which it contains
    ("fp16", re.compile(r"fp16|half|float16", re.IGNORECASE)),
    ("fp8", re.compile(r"fp8|float8", re.IGNORECASE)),
    ("int8", re.compile(r"u?int8", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|float", re.IGNORECASE)),
)


def compute_types(information: str) -> Iterator[str]:
    """The type of each convolution's and matrix product's first input; "tf32" where its kernel multiplies float32 so.

    Args:
        information: ``EngineInspector.get_engine_information(LayerInformationFormat.JSON)``.

    Yields:
        Nothing for layers that the engine tells only the names of, or whose type is none of ``TYPES``.
    """
    for layer in json.loads(information).get("Layers", []):
        if not isinstance(layer, dict) or not layer.get("Inputs"):
            continue
        kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"
        if not COMPUTE.search(kind):
            continue
        found = tensor_type(layer["Inputs"][0])
        if found == "fp32" and "tf32" in layer.get("TacticName", "").lower():
            found = "tf32"
        if found is not None:
            yield found


def tensor_type(tensor: dict[str, Any]) -> str | None:
    """Our name of a tensor's type, or None where it is not told ("N/A due to dynamic shapes") or another."""
    text = " ".join(str(tensor.get(key, "")) for key in ("DataType", "Datatype", "Format/Datatype"))
    return next((name for name, pattern in TYPES if pattern.search(text)), None)
