"""An ONNX export to a TensorRT engine.

With ``tensorrt`` and a GPU the engine is built for that GPU. Without, ``tensorrt-rtx`` builds one ahead of time, on the
CPU, for the compute capabilities of common cards. Networks are strongly typed: the ONNX file says every type.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from exporters.export_job import ExportJob
from exporters.proven_export import prove
from exporters.quantise import quantise_for_tensorrt
from exporters.steps import STEPS, Step, Written
from exporters.to_onnx import finish_graph, open_onnx
from kdbench.backends.exported import read_export
from kdbench.backends.tensorrt_cards import rtx_obstacle
from kdbench.backends.tensorrt_engine import import_provider, make_logger
from kdbench.comparison.parity import AGREEMENT
from kdbench.errors import BackendUnavailable, BadInput, RunFailed, one_line
from kdbench.runs.files import sha256

AHEAD_OF_TIME = ("SM80", "SM86", "SM89", "SM120")
"""Compute capabilities of engines built without a GPU: Ampere (server, desktop), Ada, Blackwell."""
MAX_BATCH = 64
"""Largest batch of an engine whose ONNX file leaves the batch open."""


def write_engine(job: ExportJob, precision: str, path: Path) -> Written:
    """Build the engine of a method's ONNX export; for int8, of a graph quantised for TensorRT, which is kept beside it.

    The engine computes in the precision of the ONNX file: networks are strongly typed. It only runs on the GPU, so its
    parity is that of the network in ONNX Runtime.

    Raises:
        Missing: there is no ONNX export. BackendUnavailable: no provider is installed, or the GPU here runs no engine
        of the one that is.
        RunFailed: the parser or the builder refused the network, or the int8 graph's outputs are not the model's.
    """
    trt, built_for = choose_provider(job.capabilities)
    if precision == "int8":
        network_file = path.with_suffix(".onnx")
        shown = job.path("trt", precision).with_suffix(".onnx")
        quantise_for_tensorrt(job.graph(), network_file, job.calibration_batches(), job.float_layers)
        finish_graph(network_file, job, precision)
        parity = prove(job, open_onnx(network_file, job), "trt", precision, network_file).as_json()
    else:
        shown = network_file = job.path("onnx", precision)
        parity = read_export(network_file, "onnx", job.size)["parity"]
        if not job.allow_drift and parity["pixel_agreement"] < AGREEMENT[precision]:
            raise RunFailed(
                f"'{shown}' was kept by --allow-drift, {100 * parity['pixel_agreement']:.3f}% of its pixels have "
                f"PyTorch's class, expected at least {100 * AGREEMENT[precision]:.1f}% for {precision}: the engine of "
                "it takes --allow-drift as well"
            )
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(network_file)):
        raise RunFailed(f"{trt.__name__} cannot parse '{shown}': {parser_problem(parser)}")
    config = builder.create_builder_config()
    # So that the engine itself tells what each layer computes in, when it runs.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if job.dynamic_batch:
        config.add_optimization_profile(_batch_profile(builder, network))
    if trt.__name__ == "tensorrt_rtx":
        config.num_compute_capabilities = len(built_for)
        for index, name in enumerate(built_for):
            config.set_compute_capability(_capability(trt, name), index)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = one_line(logger.last_error)
        raise RunFailed(f"{trt.__name__} {trt.__version__} could not build '{shown}': {reason}")
    seconds = time.perf_counter() - started
    path.write_bytes(memoryview(plan))
    return Written(
        {
            "network": {"file": network_file.name, "sha256": sha256(network_file)},
            "parity": parity,
            "provider": trt.__name__,
            "provider_version": trt.__version__,
            "built_for": built_for,
            # fp32 tensors may still be multiplied in TF32 on Ampere and newer.
            "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
            "network_layers": network.num_layers,
            "network_layers_by_output_type": _layers_by_type(network),
            "build_seconds": round(seconds, 2),
        }
    )


def parser_problem(parser: Any) -> str:
    """What TensorRT's parser refused: every operator, with the first node of it, and the parser's words for the first.

    Args:
        parser: an ``OnnxParser`` after ``parse`` failed.
    """
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    nodes: dict[str, str] = {}
    for error in errors:
        operator = error.node_operator()
        if operator:
            nodes.setdefault(operator, error.node_name())
    refused = ", ".join(f"{operator} (node '{name}')" for operator, name in nodes.items())
    words = one_line(errors[0].desc(), 300) if errors else "it does not say why"
    return f"operator {refused}: {words}" if refused else words


def choose_provider(capabilities: tuple[str, ...] = ()) -> tuple[Any, list[str]]:
    """The module that builds engines here, and what they will be built for: a GPU's name, or compute capabilities.

    Args:
        capabilities: what a person wants ``tensorrt-rtx`` to build for, whatever the GPU here is; () = common cards,
            and nothing where the GPU here would not run the engine. ``tensorrt`` builds for the GPU here alone.

    Raises:
        BackendUnavailable: neither provider can be used.
    """
    import torch

    lacking = None
    if torch.cuda.is_available():
        try:
            return import_provider("tensorrt"), [torch.cuda.get_device_name()]
        except BackendUnavailable as error:
            lacking = error  # an ahead-of-time engine of tensorrt-rtx may still run on this GPU
    trt = import_provider("tensorrt_rtx")
    if lacking is not None and not capabilities:
        obstacle = rtx_obstacle(torch.cuda.get_device_capability())
        if obstacle is not None:
            raise BackendUnavailable(
                f"TensorRT for RTX {obstacle[0]} ({torch.cuda.get_device_name()}): {obstacle[1]}; --compute-capability "
                f"builds for other cards; {lacking}"
            )
    return trt, list(capabilities or AHEAD_OF_TIME)


def _capability(trt: Any, name: str) -> Any:
    """A compute capability by its name.

    Raises:
        BadInput: the provider knows none of that name.
    """
    known = [item for item in dir(trt.ComputeCapability) if item.startswith("SM")]
    if name not in known:
        raise BadInput(
            f"--compute-capability: got '{name}', {trt.__name__} {trt.__version__} knows {', '.join(known)}: name those"
        )
    return getattr(trt.ComputeCapability, name)


def _batch_profile(builder: Any, network: Any) -> Any:
    """Batches of 1 to ``MAX_BATCH``, tuned for 1."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *shape), (1, *shape), (MAX_BATCH, *shape))
    return profile


def strongly_typed(trt: Any) -> int:
    """The network's creation flags; from TensorRT 11 on every network is strongly typed and the flag may be gone."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _layers_by_type(network: Any) -> dict[str, int]:
    """Layers of the parsed network by the type of their first output; the engine's own needs a GPU to be read."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    return dict(Counter(layer.get_output(0).dtype.name.lower() for layer in layers if layer.num_outputs))


STEPS.add(Step("trt", write_engine, made_from={"fp32": "onnx", "fp16": "onnx"}))
