"""A model repository of NVIDIA Triton Inference Server: ``<name>/config.pbtxt`` and ``<name>/1/<model file>``.

Names, types and shapes are the artifact's own; how Triton optimises is left to its defaults. Its documentation:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

from pathlib import Path

from kdbench.package.shipped import Shipped
from kdbench.package.tensors import Tensor

MAX_BATCH = 8
"""Images that Triton may put into one call of a model with an open batch."""
BACKENDS = {
    "onnx": ("onnxruntime", "model.onnx"),
    "trt": ("tensorrt", "model.plan"),
    "openvino": ("openvino", "model.xml"),
}
"""Format → Triton's backend, and the file that it looks for."""
TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "int8": "TYPE_INT8", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "float16": "TYPE_FP16", "float32": "TYPE_FP32",
}  # fmt: skip


def why_not(shipped: Shipped) -> str | None:
    """Why Triton does not serve it; None where it does."""
    if shipped.format not in BACKENDS:
        return f"Triton has no backend for files of format {shipped.format}"
    if shipped.sidecar.get("provider") == "tensorrt_rtx":
        return "it is an engine of TensorRT for RTX, and Triton's backend loads those of TensorRT alone"
    return None


def repository(shipped: Shipped) -> dict[Path, str | Path]:
    """Path below ``model_repository/`` → text of a new file, or the file that is copied there."""
    if why_not(shipped) is not None:
        return {}
    folder = Path(shipped.name)
    model = Path(BACKENDS[shipped.format][1])
    files: dict[Path, str | Path] = {folder / "config.pbtxt": config(shipped)}
    for file in shipped.files:
        files[folder / "1" / f"{model.stem}{model.suffix if file == shipped.path else file.suffix}"] = file
    return files


def config(shipped: Shipped) -> str:
    """``config.pbtxt``: a ``ModelConfig`` in protobuf's text form."""
    backend, model = BACKENDS[shipped.format]
    open_batch = shipped.image.open_batch and shipped.result.open_batch
    lines = [
        f'name: "{shipped.name}"',
        f'backend: "{backend}"',
        f'default_model_filename: "{model}"',
        # 0: the batch that the model was exported with is an extent as any other.
        f"max_batch_size: {MAX_BATCH if open_batch else 0}",
        f"input [ {tensor(shipped.image, open_batch)} ]",
        f"output [ {tensor(shipped.result, open_batch)} ]",
        f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if shipped.on_gpu else 'KIND_CPU'} }} ]",
    ]
    if open_batch:
        lines.append("dynamic_batching { }")
    return "\n".join(lines) + "\n"


def tensor(value: Tensor, open_batch: bool) -> str:
    dims = value.shape[1:] if open_batch else value.shape
    return f'{{ name: "{value.name}" data_type: {TYPES[value.dtype]} dims: [ {", ".join(map(str, dims))} ] }}'
