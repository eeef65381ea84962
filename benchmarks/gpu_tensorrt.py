"""The way through TensorRT and TensorRT-RTX; see ``gpu_ways``."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from benchmarks.gpu_engine import Engine, buffers
from kdbench.data.preprocessing import Size
from kdbench.runs.files import sha256


def tensorrt_engine(network_file: Path, provider: str, batch: int, size: Size) -> Engine:
    """An engine built here for this GPU and this batch alone, by ``tensorrt`` or ``tensorrt_rtx``."""
    from exporters.to_tensorrt import strongly_typed
    from kdbench.backends.tensorrt_engine import import_provider, make_logger

    trt = import_provider(provider)
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(network_file)):
        raise RuntimeError(str(parser.get_error(0)))
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    given, result = network.get_input(0), network.get_output(0)
    profile.set_shape(given.name, *[(batch, *size, 3)] * 3)
    config.add_optimization_profile(profile)
    started = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError(logger.last_error)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeError(logger.last_error)
    context = engine.create_execution_context()
    images, masks = buffers(batch, size, "cuda")
    context.set_input_shape(given.name, tuple(images.shape))
    context.set_tensor_address(given.name, images.data_ptr())
    context.set_tensor_address(result.name, masks.data_ptr())

    def enqueue() -> None:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError(logger.last_error)

    seconds = round(time.perf_counter() - started, 1)
    about = {provider: trt.__version__, "build_seconds": seconds, "sha256": sha256(network_file)}
    return Engine(images, masks, enqueue, about)
