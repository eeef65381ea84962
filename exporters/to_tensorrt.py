"""An ONNX export to a TensorRT engine.

With ``tensorrt`` and a GPU the engine is built for that GPU. Without, ``tensorrt-rtx`` builds one ahead of time, on the
CPU, for the compute capabilities of common cards. Networks are strongly typed: the ONNX file says every type.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from kdbench.artifacts import SCHEMA_VERSION, RunTree, atomic_path, sha256, sidecar_path, write_json
from kdbench.backends.exported import read_export
from kdbench.backends.tensorrt_engine import import_provider, make_logger
from kdbench.environment import environment
from kdbench.errors import BackendUnavailable, RunFailed

PRECISION = "fp32"
AHEAD_OF_TIME = ("SM80", "SM86", "SM89", "SM120")
"""Compute capabilities of engines built without a GPU: Ampere (server, desktop), Ada, Blackwell."""


def export_tensorrt(tree: RunTree, method: str, *, output: str) -> Path:
    """Build the engine of a method's ONNX export.

    Args:
        output: "logits" or "mask", that of the ONNX export.

    Returns:
        Path of the ``.engine`` file; its sidecar is beside it.

    Raises:
        Missing: there is no ONNX export. BackendUnavailable: no provider is installed.
        RunFailed: the parser or the builder refused the network.
    """
    onnx_file = tree.export(method, "onnx", PRECISION, output)
    source = read_export(onnx_file, "onnx", None)
    trt, built_for = choose_provider()
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_file)):
        reason = " ".join(str(parser.get_error(0)).split())  # it spreads over lines; a message is one
        raise RunFailed(f"{trt.__name__} cannot parse '{onnx_file}': {reason}")
    config = builder.create_builder_config()
    if trt.__name__ == "tensorrt_rtx":
        config.num_compute_capabilities = len(AHEAD_OF_TIME)
        for index, name in enumerate(AHEAD_OF_TIME):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RunFailed(f"{trt.__name__} {trt.__version__} could not build '{onnx_file}': {logger.last_error}")
    seconds = time.perf_counter() - started
    path = tree.export(method, "trt", PRECISION, output)
    with atomic_path(path) as temporary:
        temporary.write_bytes(memoryview(plan))
    write_json(
        sidecar_path(path),
        {
            "schema_version": SCHEMA_VERSION,
            **{key: source[key] for key in ("kind", "precision", "output", "method", "dataset", "classes", "palette")},
            **{key: source[key] for key in ("size", "inputs", "outputs", "checkpoint_sha256")},
            "format": "trt",
            "onnx_sha256": source["sha256"],
            "provider": trt.__name__,
            "provider_version": trt.__version__,
            "built_for": built_for,
            # fp32 tensors may still be multiplied in TF32 on Ampere and newer.
            "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
            "network_layers": network.num_layers,
            "network_layers_by_output_type": _layers_by_type(network),
            "build_seconds": round(seconds, 2),
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
            "environment": environment(),
        },
    )
    return path


def choose_provider() -> tuple[Any, list[str]]:
    """The module that builds engines here, and what they will be built for: a GPU's name, or compute capabilities.

    Raises:
        BackendUnavailable: neither provider can be used.
    """
    import torch

    if torch.cuda.is_available():
        try:
            return import_provider("tensorrt"), [torch.cuda.get_device_name()]
        except BackendUnavailable:
            pass  # an ahead-of-time engine of tensorrt-rtx may still run on this GPU
    return import_provider("tensorrt_rtx"), list(AHEAD_OF_TIME)


def _strongly_typed(trt: Any) -> int:
    """The network's creation flags; from TensorRT 11 on every network is strongly typed and the flag may be gone."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _layers_by_type(network: Any) -> dict[str, int]:
    """Layers of the parsed network by the type of their first output; the engine's own needs a GPU to be read."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    return dict(Counter(layer.get_output(0).dtype.name.lower() for layer in layers if layer.num_outputs))
