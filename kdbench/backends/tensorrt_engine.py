"""TensorRT and TensorRT for RTX: one engine file, run by the provider that built it. Needs an NVIDIA GPU."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.backends.base import Backend
from kdbench.backends.declared import BACKENDS, DeclaredBackend
from kdbench.backends.exported import read_export
from kdbench.backends.precision_proof import require_precision, share_by_type
from kdbench.backends.tensorrt_cards import TENSORRT_INDEX, rtx_obstacle
from kdbench.backends.tensorrt_layers import compute_types
from kdbench.data.normalisation import Input
from kdbench.errors import BackendUnavailable, BadInput, EngineRefused, RunFailed, one_line
from kdbench.formats import PRECISIONS
from kdbench.machine.checks import Check, Gpu, gpu_row, try_import

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdbench.data.preprocessing import Size

PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
"""Provider (also its module) → package."""


def import_provider(name: str) -> Any:
    """The ``tensorrt`` or ``tensorrt_rtx`` module; both have the same API.

    Raises:
        BackendUnavailable: not installed, or its libraries do not load.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        more = f"; {TENSORRT_INDEX}" if name == "tensorrt" else ""
        raise BackendUnavailable(
            f"trt: {name} cannot be imported ({one_line(error)}): `pip install {PACKAGES[name]}`{more}"
        ) from error


def make_logger(trt: Any) -> Any:
    """A logger that keeps the last error for our own message instead of printing it."""

    class Quiet(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last_error = message

    return Quiet()


class TensorRTBackend(Backend):
    """An engine in one execution context; ``infer`` includes the copies to and from the GPU."""

    def __init__(self, trt: Any, engine: Any, output: str, size: Size, details: dict[str, Any]) -> None:
        import numpy as np
        import torch

        self.output, self.size, self.details = output, size, details
        self._engine, self._context = engine, engine.create_execution_context()
        if self._context is None:
            raise RunFailed(f"trt: no execution context on {details['device']}: free GPU memory and run it again")
        self._stream = torch.cuda.Stream()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self._dtypes = {
            name: getattr(torch, np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name) for name in names
        }
        self._bind(1)

    def _bind(self, images: int) -> None:
        """Give the context buffers for so many images.

        Raises:
            RunFailed: the engine was not built for so many.
        """
        import torch

        buffers = {}
        for name, given in self._is_input.items():
            shape = [images if extent == -1 else extent for extent in self._engine.get_tensor_shape(name)]
            if given and not self._context.set_input_shape(name, shape):
                raise RunFailed(
                    f"trt: the engine refused {images} images at once, expected a batch that it was built for: give "
                    "it fewer"
                )
            buffers[name] = torch.empty(shape, dtype=self._dtypes[name], device="cuda")
            self._context.set_tensor_address(name, buffers[name].data_ptr())
        self._buffers = buffers
        self._input = next(buffers[name] for name, given in self._is_input.items() if given)
        self._output = next(buffers[name] for name, given in self._is_input.items() if not given)
        self._result = torch.empty(self._output.shape, dtype=self._output.dtype, pin_memory=True)
        self._images = images

    @classmethod
    def load(cls, artifact: Path, *, output: str, size: Size | None, device: str, threads: int) -> TensorRTBackend:
        import torch

        sidecar = read_export(artifact, "trt", size)
        precision = sidecar["precision"]
        command = f"kdbench export --method {sidecar['method']} --format trt"
        if precision != "fp32":
            command += f" --precision {precision}"
        if sidecar["output"] != output:
            raise BadInput(
                f"'{artifact}' returns {sidecar['output']}, --output {output} was asked for: "
                f"build it with `{command} --output {output}`"
            )
        provider = sidecar.get("provider")
        if provider not in PACKAGES:
            raise BadInput(
                f"'{artifact}': its sidecar names the provider {provider}, expected {' or '.join(PACKAGES)}: "
                f"build it again with `{command}`"
            )
        if not torch.cuda.is_available():
            raise BackendUnavailable(
                f"engine built with {provider} {sidecar['provider_version']} for {', '.join(sidecar['built_for'])}: "
                "running it needs an NVIDIA GPU and its driver, which this machine does not have"
            )
        trt = import_provider(provider)
        if trt.__version__ != sidecar["provider_version"]:
            raise BadInput(
                f"'{artifact}' was built by {provider} {sidecar['provider_version']}, this is {trt.__version__}: "
                f"build it again with `{command}`"
            )
        gpu = torch.cuda.get_device_name()
        if provider == "tensorrt" and sidecar["built_for"] != [gpu]:
            raise BadInput(
                f"'{artifact}' was built for {sidecar['built_for'][0]}, this is {gpu}: build it again with `{command}`"
            )
        logger = make_logger(trt)
        engine = trt.Runtime(logger).deserialize_cuda_engine(artifact.read_bytes())
        if engine is None:
            reason = one_line(logger.last_error) or "its runtime does not say why"
            raise EngineRefused(f"{provider} {trt.__version__} refused the engine on {gpu}: {reason}")
        height, width = sidecar["size"]
        details = {
            "device": gpu,
            "provider": provider,
            "version": trt.__version__,
            "tf32": sidecar["tf32"],
            "precision": precision,
        }
        backend = cls(trt, engine, output, (height, width), details)
        backend.input = Input.recorded(sidecar)
        inspector = engine.create_engine_inspector()
        inspector.execution_context = backend._context  # types of an engine with an open batch are told only with one
        information = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        details["operators"] = share_by_type(compute_types(information))
        require_precision(details["operators"], precision, f"trt: '{artifact}'")
        return backend

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        import numpy as np
        import torch

        if len(batch) != self._images:
            self._bind(len(batch))
        source = torch.from_numpy(batch if batch.flags.writeable else np.array(batch))
        with torch.cuda.stream(self._stream):
            self._input.copy_(source, non_blocking=True)
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                # Without this, the output of the image before would be returned as this one's.
                raise RunFailed(f"trt: the engine did not run on {self.details['device']}: build it again")
            self._result.copy_(self._output, non_blocking=True)
        self._stream.synchronize()
        return self._result.numpy().copy()

    def close(self) -> None:
        del self._context, self._engine, self._buffers, self._input, self._output


def probe(gpu: Gpu | None) -> list[Check]:
    name, precisions = gpu.name if gpu is not None else None, PRECISIONS
    package = try_import("tensorrt", "tensorrt")
    whole = gpu_row("trt", "TensorRT", package, name, precisions)
    if gpu is not None and package.module is None:
        whole = replace(whole, note=f"{package.problem}: {TENSORRT_INDEX}")
    package = try_import("tensorrt_rtx", "tensorrt-rtx")
    rtx = gpu_row("trt", "TensorRT for RTX", package, name, precisions)
    if package.module is not None:
        if gpu is None:
            rtx = replace(rtx, note="no NVIDIA GPU here; engines are built ahead of time")
        elif gpu.capability is not None and (obstacle := rtx_obstacle(gpu.capability)) is not None:
            rtx = replace(rtx, precisions=(), ready=False, note=obstacle[0], fix=obstacle[1])
    return [whole, rtx]


BACKENDS.add(DeclaredBackend("trt", TensorRTBackend.load, probe, loads="trt", usual=True, color="#009E73"))
