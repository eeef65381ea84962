"""The ways to run a network on an NVIDIA GPU, each opened as an ``Engine``; those of PyTorch and ONNX Runtime also run
on a CPU, where tests drive the same code."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_bundle import Bundle
from benchmarks.gpu_engine import Engine, buffers
from kdbench.data.preprocessing import Size
from kdbench.models.deployed import deployable
from kdbench.models.fused import folded, fused
from kdbench.models.registry import load_model
from kdbench.runs.files import sha256

USUAL = "torch eager fp32"
GRAPH = " in a CUDA graph"
TYPES = {"fp32": torch.float32, "fp16": torch.float16}
FORMS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda model: model,
    "folded": folded,
    "fused": fused,
    "products": lambda model: fused(model, products=True),
}
TRIED_PRODUCTS = 12
"""Of the kernels that Inductor would time for each matrix product: all of them take minutes more."""
WARMUP_CALLS = 3
"""Calls before a graph is captured, and until ONNX Runtime has captured its own (it does so in the second)."""


@dataclass(frozen=True)
class Way:
    """How a network is run.

    Attributes:
        runtime: "torch", "torch.compile", "onnx", "tensorrt" or "tensorrt_rtx".
        graph: replay a CUDA graph in place of launching each kernel.
        form: PyTorch's only, one of ``FORMS``.
        channels_last: memory in N x H x W x C order; ONNX Runtime reorders its graph for it (``prefer_nhwc``).
        autotune: torch.compile's only: let it time its own matrix products beside the library's; into its own it joins
            what stands before and after them. Takes minutes.
        early_launch: torch.compile's only: a kernel is set up while the one before it ends (programmatic dependent
            launch, of compute capability 9.0 on).
    """

    name: str
    runtime: str
    precision: str
    graph: bool = False
    form: str = "plain"
    channels_last: bool = False
    autotune: bool = False
    early_launch: bool = False


def _torch(name: str, precision: str = "fp16", form: str = "plain", **options: bool) -> Way:
    runtime = "torch.compile" if "compile" in name else "torch"
    options.setdefault("channels_last", True)
    return Way(name, runtime, precision, GRAPH in name, form, **options)


# The most telling first: time may run out.
WAYS = (
    _torch(USUAL, "fp32", channels_last=False),
    _torch("autotuned products torch.compile fp16" + GRAPH, form="products", autotune=True),
    _torch("products torch.compile fp16" + GRAPH, form="products"),
    _torch("fused torch.compile fp16" + GRAPH, form="fused"),
    _torch("products early-launch torch.compile fp16" + GRAPH, form="products", early_launch=True),
    Way("onnx fp16" + GRAPH, "onnx", "fp16", graph=True),
    Way("onnx channels-last fp16" + GRAPH, "onnx", "fp16", graph=True, channels_last=True),
    _torch("folded channels-last fp16" + GRAPH, form="folded"),
    _torch("torch channels-last fp16" + GRAPH),
    Way("onnx fp32", "onnx", "fp32"),
    Way("onnx fp16", "onnx", "fp16"),
    Way("onnx fp32" + GRAPH, "onnx", "fp32", graph=True),
    _torch(USUAL + GRAPH, "fp32", channels_last=False),
    _torch("torch channels-last fp16"),
    _torch("fused torch.compile fp16", form="fused"),
    _torch("products torch.compile fp16", form="products"),
    _torch("torch.compile fp16" + GRAPH),
    _torch("torch.compile fp16"),
    Way("tensorrt fp16" + GRAPH, "tensorrt", "fp16", graph=True),
    Way("tensorrt fp16", "tensorrt", "fp16"),
    Way("tensorrt fp32", "tensorrt", "fp32"),
    Way("tensorrt_rtx fp16" + GRAPH, "tensorrt_rtx", "fp16", graph=True),
    Way("tensorrt_rtx fp16", "tensorrt_rtx", "fp16"),
)


@dataclass
class Opener:
    """Opens ways on one device.

    Attributes:
        log: file for what ONNX Runtime's libraries write to the terminal's error stream.
        modules: compiled networks, which a way and the same in a CUDA graph share: compiling takes seconds.
    """

    bundle: Bundle
    device: str
    log: Path
    modules: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]] = field(default_factory=dict)

    def open(self, way: Way, batch: int, size: Size) -> Engine:
        """Load a way and run it until it is as fast as it will be.

        Raises:
            RuntimeError, ImportError and whatever a runtime raises: it does not work here.
        """
        if self.device == "cpu" and (way.graph or way.runtime.startswith("tensorrt")):
            raise RuntimeError(f"{way.name} needs a GPU")
        with errors_into(self.log):
            if way.runtime.startswith("torch"):
                engine = self.torch_engine(way, batch, size)
            elif way.runtime == "onnx":
                path = self.bundle.onnx(size, way.precision, batch)
                engine = onnx_engine(path, way, batch, size, self.device)
            else:
                from benchmarks.gpu_tensorrt import tensorrt_engine

                engine = tensorrt_engine(self.bundle.onnx(size, way.precision, batch), way.runtime, batch, size)
            for _ in range(WARMUP_CALLS):
                engine.enqueue()
            if self.device != "cpu":
                torch.cuda.synchronize()
            return as_cuda_graph(engine) if way.graph and way.runtime != "onnx" else engine

    def has_module(self, way: Way, batch: int, size: Size) -> bool:
        """Whether opening ``way`` compiles nothing."""
        return module_key(way, batch, size) in self.modules

    def forget(self, batch: int) -> None:
        """Let go of the networks that were opened for a batch."""
        self.modules = {key: value for key, value in self.modules.items() if key[0] != batch}
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def torch_engine(self, way: Way, batch: int, size: Size) -> Engine:
        images, masks = buffers(batch, size, self.device)
        key = module_key(way, batch, size)
        if key not in self.modules:
            self.modules[key] = self.torch_module(way, images)
        module, about = self.modules[key]

        @torch.inference_mode()
        def enqueue() -> None:
            masks.copy_(module(images))

        return Engine(images, masks, enqueue, about)

    def torch_module(self, way: Way, images: Tensor) -> tuple[Any, dict[str, Any]]:
        """The network as PyTorch runs it, and how long it took to compile (one call on ``images``)."""
        model, _ = load_model(self.bundle.checkpoint, "kdbench train")
        layout = torch.channels_last if way.channels_last else torch.contiguous_format
        model = FORMS[way.form](model).to(TYPES[way.precision]).to(memory_format=layout)
        logits = model.logits
        # Normalising an H x W x 3 image leaves channels-last strides, which the network would follow.
        model.logits = lambda images: logits(images.contiguous(memory_format=layout))
        # Elementwise: a tenth of the operations of a Resize to full size and an ArgMax, which the compiler would join.
        module: Any = deployable(model, "mask", elementwise=way.form == "products").to(self.device)
        about: dict[str, Any] = {"torch": torch.__version__, "form": way.form}
        if way.runtime == "torch.compile":
            # Every batch and every form of MaskModel is one more version of the same function to dynamo.
            torch._dynamo.config.recompile_limit = 64
            options = compile_options(way)
            module = torch.compile(module, fullgraph=True, dynamic=False, options=options)
            started = time.perf_counter()
            with torch.inference_mode():
                module(images)
            if images.is_cuda:
                torch.cuda.synchronize()
            about |= {"compile_seconds": round(time.perf_counter() - started, 2), "options": options}
        return module, about


def module_key(way: Way, batch: int, size: Size) -> tuple[Any, ...]:
    return (batch, size, way.runtime, way.precision, way.form, way.channels_last, way.autotune, way.early_launch)


def compile_options(way: Way) -> dict[str, Any]:
    """Inductor's settings, those that this version of it has."""
    wanted: dict[str, Any] = {
        "triton.cudagraphs": False, "coordinate_descent_tuning": False, "max_autotune": way.autotune,
        "triton.enable_pdl": way.early_launch,
    }  # fmt: skip
    if way.autotune:
        wanted |= {"max_autotune_gemm_backends": "ATEN,TRITON", "test_configs.max_mm_configs": TRIED_PRODUCTS}
    if way.form != "plain":
        # Channels-last everywhere: else it weighs that by a rule of thumb for training.
        wanted["force_layout_optimization"] = True
    import torch._inductor.config

    known = torch._inductor.config.get_config_copy()
    return {name: value for name, value in wanted.items() if name in known}


def cuda_options(way: Way, stream: int) -> dict[str, str]:
    """ONNX Runtime's settings of its CUDA provider; ``stream`` is the address of torch's."""
    return {
        "user_compute_stream": str(stream),
        "enable_cuda_graph": str(int(way.graph)),
        "prefer_nhwc": str(int(way.channels_last)),
    }


def onnx_engine(artifact: Path, way: Way, batch: int, size: Size, device: str) -> Engine:
    """ONNX Runtime on torch's current stream, its input and output bound to torch's memory."""
    import onnxruntime

    options: dict[str, str] = {}
    if device == "cuda":
        onnxruntime.preload_dlls()
        options = cuda_options(way, torch.cuda.current_stream().cuda_stream)
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(artifact), settings, providers=[(provider, options)])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"asked for {provider}, the session runs on {session.get_providers()}")
    images, masks = buffers(batch, size, device)
    binding = session.io_binding()
    given, result = session.get_inputs()[0].name, session.get_outputs()[0].name
    binding.bind_input(given, device, 0, np.uint8, tuple(images.shape), images.data_ptr())
    binding.bind_output(result, device, 0, np.uint8, tuple(masks.shape), masks.data_ptr())
    asynchronous = onnxruntime.RunOptions()
    asynchronous.log_severity_level = 3
    asynchronous.add_run_config_entry("disable_synchronize_execution_providers", "1")
    if way.graph:
        asynchronous.add_run_config_entry("gpu_graph_id", "1")
    about = {
        "onnxruntime": onnxruntime.__version__, "sha256": sha256(artifact),
        "provider_options": options,
    }  # fmt: skip
    return Engine(images, masks, lambda: session.run_with_iobinding(binding, asynchronous), about)


def as_cuda_graph(engine: Engine) -> Engine:
    """The same passes, recorded once and replayed (PyTorch's notes on CUDA graphs: warm up on a side stream first)."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP_CALLS):
            engine.enqueue()
    torch.cuda.current_stream().wait_stream(stream)
    graph, whole = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        engine.enqueue()
    sent, received = (torch.empty_like(t, device="cpu", pin_memory=True) for t in (engine.images, engine.masks))
    with torch.cuda.graph(whole):
        engine.images.copy_(sent, non_blocking=True)
        engine.enqueue()
        received.copy_(engine.masks, non_blocking=True)
    # The graphs have the addresses of the weights, which ``engine`` keeps in place.
    return Engine(
        engine.images, engine.masks, graph.replay, engine.about, keeps=engine, whole=whole.replay,
        sent=sent, received=received,
    )  # fmt: skip


@contextlib.contextmanager
def errors_into(log: Path) -> Iterator[None]:
    """Send what is written to the process's error stream, libraries included, to the end of ``log``."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
