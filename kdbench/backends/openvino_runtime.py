"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.backends.base import Backend
from kdbench.backends.declared import BACKENDS, DeclaredBackend
from kdbench.backends.exported import read_export
from kdbench.backends.precision_proof import require_precision, share_by_type
from kdbench.data.normalisation import Input
from kdbench.errors import BackendUnavailable, BadInput, one_line
from kdbench.formats import FORMATS
from kdbench.machine.checks import Check, Gpu, Package, cpu, package_row, try_import
from kdbench.machine.cores import cores, usable_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdbench.data.preprocessing import Size

COMPUTE = ("Convolution", "GroupConvolution", "Deconvolution", "MatMul", "FullyConnected")
"""layerType of what multiplies matrices, in OpenVINO's runtime model."""
TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}


class OpenVinoBackend(Backend):
    """A model, compiled for each number of images that it is given at once.

    Compiled with an open batch, OpenVINO joins fewer operators, and took three times as long for one image.
    """

    def __init__(self, compile_for: Callable[[int], Any], output: str, size: Size, details: dict[str, Any]) -> None:
        self.output, self.size, self.details = output, size, details
        self._compile_for = compile_for
        self._requests: dict[int, Any] = {}

    @classmethod
    def load(cls, artifact: Path, *, output: str, size: Size | None, device: str, threads: int) -> OpenVinoBackend:
        sidecar = read_export(artifact, "openvino", size)
        if device != "cpu":
            raise BackendUnavailable("openvino: runs on the CPU here: use --device cpu")
        backend = cls.open(artifact, output=output, precision=sidecar["precision"], threads=threads)
        backend.input = Input.recorded(sidecar)
        # The .xml, whose hash a results row has, says nothing of the weights, and those are what students differ in.
        backend.details["weights"] = sidecar["weights"]
        return backend

    @classmethod
    def open(cls, path: Path, *, output: str, precision: str = "fp32", threads: int = 0) -> OpenVinoBackend:
        """Open an .xml without asking for a sidecar; otherwise as ``load``.

        Args:
            precision: "fp32" or "int8": what its convolutions must run in.
            threads: 0 = one per core that may be used.
        """
        try:
            import openvino
        except ImportError as error:
            raise BackendUnavailable(f"openvino: cannot be imported ({error}): `pip install openvino`") from error
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # Without this, float layers run in bf16 on processors that have it, whatever the file says.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
        }
        core = openvino.Core()

        @cache
        def compile_for(images: int) -> Any:
            shape = model.input(0).get_partial_shape()
            if shape[0].is_static:
                return core.compile_model(model, "CPU", settings)
            shape[0] = images
            closed = model.clone()
            closed.reshape({0: shape})
            return core.compile_model(closed, "CPU", settings)

        try:
            model = core.read_model(str(path))
            compiled = compile_for(1)
        except RuntimeError as error:
            last_line = str(error).strip().splitlines()[-1].strip()
            raise BadInput(f"'{path}' is no OpenVINO model that this OpenVINO reads ({last_line})") from error
        operators = share_by_type(
            TYPES.get(info["runtimePrecision"].astype(str), info["runtimePrecision"].astype(str))
            for node in compiled.get_runtime_model().get_ops()
            if (info := node.get_rt_info())["layerType"].astype(str) in COMPUTE
        )
        require_precision(operators, precision, f"openvino: '{path}'")
        shape = [int(d) for d in compiled.input(0).get_partial_shape().get_max_shape()]
        height, width = shape[1:3] if output == "mask" else shape[2:4]
        details = {
            "device": "cpu",
            "provider": "OpenVINO CPU",
            "threads": settings["INFERENCE_NUM_THREADS"],
            "openvino": openvino.__version__.split("-")[0],
            "precision": precision,
            "operators": operators,
        }
        return cls(compile_for, output, (height, width), details)

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        request = self._requests.get(len(batch))
        if request is None:
            request = self._requests[len(batch)] = self._compile_for(len(batch)).create_infer_request()
        # The output is the request's own memory, which the next call overwrites.
        return np.array(request.infer({0: batch}, share_inputs=True)[0])

    def close(self) -> None:
        del self._requests, self._compile_for


def probe(gpu: Gpu | None) -> list[Check]:
    package = try_import("openvino", "openvino")
    device = cpu()
    if package.module is not None:
        try:
            core = package.module.Core()
            device = f"{core.get_property('CPU', 'FULL_DEVICE_NAME').strip()}, {cores().told()}"
        except Exception as error:  # no CPU plugin, or a leftover folder without the library
            reason = f"has no CPU device ({type(error).__name__}: {one_line(error, 200)})"
            package = Package(None, package.version, reason, "pip install --force-reinstall openvino")
    return [package_row("openvino", "OpenVINO CPU", package, device, FORMATS["openvino"].precisions, None)]


BACKENDS.add(DeclaredBackend("openvino", OpenVinoBackend.load, probe, loads="openvino", usual=True, color="#D55E00"))
