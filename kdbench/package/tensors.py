"""What an artifact takes and returns, read from the artifact itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import BackendUnavailable, BadInput, Missing
from kdbench.runs.files import sha256
from kdbench.runs.tree import RunTree

OPENVINO_TYPES = {"u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64", "f16": "float16", "f32": "float32"}


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        dtype: NumPy's name.
        shape: an open extent is -1.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def open_batch(self) -> bool:
        return self.shape[0] == -1

    @property
    def channels_last(self) -> bool:
        """Of an image: N x H x W x 3, or else N x 3 x H x W."""
        return self.shape[1] != 3

    def __str__(self) -> str:
        return f"{' x '.join('N' if extent == -1 else str(extent) for extent in self.shape)} {self.dtype}"


def tensors_of(tree: RunTree, path: Path, sidecar: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """An export's input and output.

    Raises:
        BackendUnavailable: OpenVINO, which reads its own files, is not installed.
        Missing, BadInput: an engine's network is gone; there is not one input and one output.
    """
    if sidecar["format"] == "openvino":
        inputs, outputs = openvino_tensors(path)
    else:
        inputs, outputs = onnx_tensors(path if sidecar["format"] == "onnx" else network_of(tree, path, sidecar))
    if len(inputs) != 1 or len(outputs) != 1:
        raise BadInput(f"'{path}' has {len(inputs)} inputs and {len(outputs)} outputs, expected one of each")
    for tensor in (*inputs, *outputs):  # their names go into a program and into Triton's configuration
        if not re.fullmatch(r"[\w./:-]+", tensor.name, re.ASCII):
            raise BadInput(
                f"'{path}': got a tensor named {tensor.name!r:.80}, expected letters, digits and . / : _ - alone: "
                "rename it"
            )
    return inputs[0], outputs[0]


def onnx_tensors(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {initializer.name for initializer in graph.initializer}  # old files list them as inputs too

    def described(value: Any) -> Tensor:
        kind = value.type.tensor_type
        shape = tuple(extent.dim_value if extent.HasField("dim_value") else -1 for extent in kind.shape.dim)
        return Tensor(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)

    return [described(v) for v in graph.input if v.name not in weights], [described(v) for v in graph.output]


def openvino_tensors(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable(f"openvino: cannot be imported ({error}): `pip install openvino`") from error

    model = openvino.Core().read_model(str(path))

    def described(port: Any) -> Tensor:
        kind = port.get_element_type().get_type_name()
        shape = tuple(-1 if extent.is_dynamic else extent.get_length() for extent in port.get_partial_shape())
        return Tensor(port.get_any_name(), OPENVINO_TYPES.get(kind, kind), shape)

    return [described(port) for port in model.inputs], [described(port) for port in model.outputs]


def network_of(tree: RunTree, engine: Path, sidecar: dict[str, Any]) -> Path:
    """The ONNX file that an engine was built from, whose names and shapes are the engine's: only a GPU opens that."""
    about = sidecar.get("network", {})
    # Beside the engine where it was quantised for it, else the method's own ONNX export.
    folders = [engine.parent, engine.parent.parent / f"onnx-{sidecar['precision']}"]
    for path in (folder / str(about.get("file")) for folder in folders):
        if path.is_file() and sha256(path) == about.get("sha256"):
            return path
    raise Missing(
        f"'{engine}': the ONNX file that it was built from ('{about.get('file')}') is not there any more: make both "
        f"again with `kdbench export --method {sidecar['method']} --format onnx,trt --dataset {tree.dataset}`"
    )
