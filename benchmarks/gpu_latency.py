"""Every way to run one student on an NVIDIA GPU: latency at batch 1, throughput up to batch 64, floors beside them.

    kdbench export --method baseline --format onnx --precision fp32,fp16 --size 512x512 --dynamic-batch
    python -m benchmarks.gpu_latency --method baseline --minutes 7      # goes on where it stopped
    python -m benchmarks.gpu_latency --method baseline --score --json results/gpu/latency.json

A measurement is one way at one batch size in a fresh process, which takes real images of the validation split, checks
its masks against PyTorch's float32 ones, warms up, and times calls by CUDA events (network alone: images and masks
stay on the GPU) and by the wall clock (image → mask: from and to pinned memory, copies included). Measurements come in
blocks of shuffled order. What a way said when it did not run is kept word for word. The card's settings are left alone;
its clocks and throttle reasons are recorded before and after each measurement.

The floors of a batch: operations of the network over the rate of a large matrix product, and bytes that its
convolutions read and write, each once, over the bandwidth of a large copy, both measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.interleaved import ratio_with_interval
from kdbench.artifacts import RunTree, read_json, sha256, sidecar_path, write_json
from kdbench.data import open_dataset
from kdbench.data.preprocessing import Size, parse_size, resize_image
from kdbench.environment import environment
from kdbench.machine_state import gpu_clocks
from kdbench.models.deploy import count_gflops, deployable, load_model

BATCHES = (1, 2, 4, 8, 16, 32, 64)
USUAL = "torch eager fp32"
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LEAST_AGREEMENT = {"fp32": 0.999, "fp16": 0.995, "bf16": 0.97}
"""Share of pixels with float32's class below which a way is not the same model (TF32 counts as fp32)."""
WARMUP_SECONDS, CALLS, SAMPLE_CALLS = 1.0, 200, 10


@dataclass
class Engine:
    """A loaded network with buffers of its own.

    Attributes:
        images: N x H x W x 3 uint8, where the network reads.
        masks: N x H x W uint8, where it writes.
        enqueue: puts one pass on the current stream.
        about: versions and settings, for the record.
    """

    images: Tensor
    masks: Tensor
    enqueue: Callable[[], Any]
    about: dict[str, Any]


@dataclass(frozen=True)
class Way:
    """How a network is run.

    Attributes:
        runtime: "torch", "torch.compile", "onnx", "tensorrt" or "tensorrt_rtx".
        graph: replay a CUDA graph in place of launching each kernel.
    """

    name: str
    runtime: str
    precision: str
    channels_last: bool = False
    graph: bool = False


WAYS = (
    Way(USUAL, "torch", "fp32"),
    Way("torch channels-last fp16", "torch", "fp16", channels_last=True),
    Way("torch channels-last bf16", "torch", "bf16", channels_last=True),
    Way("torch channels-last fp16, CUDA graph", "torch", "fp16", channels_last=True, graph=True),
    Way("torch.compile fp16", "torch.compile", "fp16", channels_last=True),
    Way("torch.compile fp16, CUDA graph", "torch.compile", "fp16", channels_last=True, graph=True),
    Way("onnx fp32", "onnx", "fp32"),
    Way("onnx fp16", "onnx", "fp16"),
    Way("onnx fp16, CUDA graph", "onnx", "fp16", graph=True),
    Way("tensorrt fp32", "tensorrt", "fp32"),
    Way("tensorrt fp16", "tensorrt", "fp16"),
    Way("tensorrt fp16, CUDA graph", "tensorrt", "fp16", graph=True),
    Way("tensorrt_rtx fp16", "tensorrt_rtx", "fp16"),
    Way("tensorrt_rtx fp16, CUDA graph", "tensorrt_rtx", "fp16", graph=True),
)


# ---------------------------------------------------------------------------------------------------------- engines


def open_engine(way: Way, tree: RunTree, method: str, batch: int, size: Size, device: str = "cuda") -> Engine:
    """Load a way; a CUDA graph is captured around it where the runtime has none of its own."""
    if way.runtime.startswith("torch"):
        engine = torch_engine(tree.checkpoint(method), way, batch, size, device)
    elif way.runtime == "onnx":
        return onnx_engine(tree.export(method, "onnx", way.precision, "mask"), batch, size, device, graph=way.graph)
    else:
        engine = tensorrt_engine(tree.export(method, "onnx", way.precision, "mask"), way.runtime, batch, size)
    return as_cuda_graph(engine) if way.graph else engine


def torch_engine(checkpoint: Path, way: Way, batch: int, size: Size, device: str) -> Engine:
    model, _ = load_model(checkpoint, "kdbench train")
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    model.to(TYPES[way.precision]).to(memory_format=layout)  # type: ignore[call-overload]
    # Normalising an H x W x 3 image leaves channels-last strides, which the network would follow.
    model.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(memory_format=layout),))
    module: Any = deployable(model, "mask").to(device)
    if way.runtime == "torch.compile":
        module = torch.compile(module, mode="max-autotune-no-cudagraphs")
    images = torch.zeros((batch, *size, 3), dtype=torch.uint8, device=device)
    masks = torch.empty((batch, *size), dtype=torch.uint8, device=device)

    @torch.inference_mode()
    def enqueue() -> None:
        masks.copy_(module(images))

    return Engine(images, masks, enqueue, {"torch": torch.__version__})


def onnx_engine(artifact: Path, batch: int, size: Size, device: str, *, graph: bool) -> Engine:
    """ONNX Runtime on torch's stream, its input and output bound to torch's memory."""
    import onnxruntime

    options: dict[str, Any] = {}
    if device == "cuda":
        onnxruntime.preload_dlls()
        stream = torch.cuda.current_stream().cuda_stream
        options = {"user_compute_stream": str(stream), "enable_cuda_graph": "1" if graph else "0"}
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(str(artifact), providers=[(provider, options)])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"asked for {provider}, the session runs on {session.get_providers()}")
    images = torch.zeros((batch, *size, 3), dtype=torch.uint8, device=device)
    masks = torch.empty((batch, *size), dtype=torch.uint8, device=device)
    binding = session.io_binding()
    given, result = session.get_inputs()[0].name, session.get_outputs()[0].name
    binding.bind_input(given, device, 0, np.uint8, tuple(images.shape), images.data_ptr())
    binding.bind_output(result, device, 0, np.uint8, tuple(masks.shape), masks.data_ptr())
    asynchronous = onnxruntime.RunOptions()
    asynchronous.add_run_config_entry("disable_synchronize_execution_providers", "1")
    about = {"onnxruntime": onnxruntime.__version__, "sha256": sha256(artifact)}
    return Engine(images, masks, lambda: session.run_with_iobinding(binding, asynchronous), about)


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
    images = torch.zeros((batch, *size, 3), dtype=torch.uint8, device="cuda")
    masks = torch.empty((batch, *size), dtype=torch.uint8, device="cuda")
    context.set_input_shape(given.name, tuple(images.shape))
    context.set_tensor_address(given.name, images.data_ptr())
    context.set_tensor_address(result.name, masks.data_ptr())

    def enqueue() -> None:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError(logger.last_error)

    seconds = round(time.perf_counter() - started, 1)
    about = {provider: trt.__version__, "build_seconds": seconds, "sha256": sha256(network_file)}
    return Engine(images, masks, enqueue, about)


def as_cuda_graph(engine: Engine) -> Engine:
    """The same passes, recorded once and replayed (PyTorch's notes on CUDA graphs: warm up on a side stream first)."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            engine.enqueue()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        engine.enqueue()
    return Engine(engine.images, engine.masks, graph.replay, engine.about)


# ------------------------------------------------------------------------------------------------------ measurement


def real_images(tree: RunTree, data_root: Path | None, batch: int, size: Size) -> Tensor:
    """N x H x W x 3 uint8 of the validation split, repeated where it has fewer than N."""
    dataset = open_dataset(tree.dataset, "val", data_root)
    found = [resize_image(dataset[i % len(dataset)].image, size) for i in range(batch)]
    return torch.from_numpy(np.stack(found))


def agreement(engine: Engine, reference: Engine, images: Tensor) -> float:
    """Share of pixels with the same class, over one batch; the masks are poisoned before."""
    for one in (engine, reference):
        one.images.copy_(images)
        one.masks.fill_(255)
        one.enqueue()
    if engine.masks.is_cuda:
        torch.cuda.synchronize()
    return float((engine.masks == reference.masks).float().mean())


def measure(way: Way, tree: RunTree, method: str, batch: int, size: Size, data_root: Path | None) -> dict[str, Any]:
    """One measurement, in this process; see the module's description."""
    before = gpu_clocks()
    started = time.perf_counter()
    # A stream of our own: the default one makes others wait, and cannot be captured.
    with torch.cuda.stream(torch.cuda.Stream()):
        engine = open_engine(way, tree, method, batch, size)
        load_seconds = time.perf_counter() - started
        images = real_images(tree, data_root, batch, size)
        usual = open_engine(WAYS[0], tree, method, batch, size)
        same = agreement(engine, usual, images)
        del usual
        if same < LEAST_AGREEMENT[way.precision]:
            raise RuntimeError(f"{same:.4f} of pixels have float32's class, expected {LEAST_AGREEMENT[way.precision]}")
        torch.cuda.reset_peak_memory_stats()
        until = time.perf_counter() + WARMUP_SECONDS
        while time.perf_counter() < until:
            engine.enqueue()
            torch.cuda.synchronize()
        network_ms = [time_network(engine) for _ in range(CALLS)]
        sent = images.pin_memory()
        received = torch.empty(engine.masks.shape, dtype=torch.uint8, pin_memory=True)
        whole_ms = [time_image_to_mask(engine, sent, received) for _ in range(CALLS)]
    return {
        "way": way.name, "batch": batch, "agreement": same, "network_ms": network_ms, "image_to_mask_ms": whole_ms,
        "load_seconds": load_seconds, "peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20,
        "about": engine.about, "gpu_before": before, "gpu_after": gpu_clocks(),
    }  # fmt: skip


def time_network(engine: Engine) -> float:
    """Milliseconds of a pass by CUDA events, mean of ``SAMPLE_CALLS`` that follow each other."""
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(SAMPLE_CALLS):
        engine.enqueue()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / SAMPLE_CALLS


def time_image_to_mask(engine: Engine, sent: Tensor, received: Tensor) -> float:
    """Milliseconds by the wall clock from pinned images to pinned masks."""
    started = time.perf_counter()
    engine.images.copy_(sent, non_blocking=True)
    engine.enqueue()
    received.copy_(engine.masks, non_blocking=True)
    torch.cuda.current_stream().synchronize()
    return (time.perf_counter() - started) * 1e3


def measure_ceilings() -> dict[str, float]:
    """Bytes per second of a large copy (read and written), and fp16 operations per second of a large product."""

    def seconds(work: Callable[[], Any]) -> float:
        for _ in range(3):
            work()
        times = []
        for _ in range(20):
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            work()
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last) / 1e3)
        return statistics.median(times)

    source = torch.randint(0, 256, (2**31,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = seconds(lambda: target.copy_(source))
    n = 8192
    a, b = (torch.randn(n, n, dtype=torch.float16, device="cuda") for _ in range(2))
    product = seconds(lambda: a @ b)
    return {"bytes_per_second": 2 * 2**31 / copy, "operations_per_second": 2 * n**3 / product}


def convolution_bytes(arch: str, classes: int, size: Size, bytes_per_value: int = 2) -> int:
    """What an image's convolutions read and write, each map once; weights are left out, a batch shares them."""
    from kdbench.models.deploy import build_model

    total = 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += inputs[0].numel() + output.numel()

    with torch.device("meta"):
        model = build_model(arch, classes).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        model(torch.empty(1, 3, *size))
    return total * bytes_per_value


# ----------------------------------------------------------------------------------------------------------- script


def schedule(blocks: int, batches: tuple[int, ...]) -> list[tuple[int, Way, int]]:
    """(block, way, batch): every block has batch 1 of every way; the first one the other batches too."""
    rng = np.random.default_rng(0)
    todo = []
    for block in range(blocks):
        pairs = [(way, batch) for way in WAYS for batch in (batches if block == 0 else batches[:1])]
        todo += [(block, *pairs[index]) for index in rng.permutation(len(pairs))]
    return todo


def run(arguments: argparse.Namespace, journal: Path) -> int:
    """Do what the journal lacks until the minutes are over; how many measurements are left."""
    until = time.monotonic() + 60 * arguments.minutes
    todo = schedule(arguments.blocks, arguments.batches)
    done = {(m["block"], m["way"], m["batch"]) for m in read_journal(journal)}
    ceilings = journal.with_name("gpu-ceilings.json")
    if not ceilings.exists():
        write_json(ceilings, {"schema_version": 1, **measure_ceilings()})
    left = [entry for entry in todo if (entry[0], entry[1].name, entry[2]) not in done]
    for index, (block, way, batch) in enumerate(left):
        if time.monotonic() > until:
            return len(left) - index
        command = [sys.executable, "-m", "benchmarks.gpu_latency", *sys.argv[1:], "--one", way.name, str(batch)]
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=120)
            lines = process.stdout.strip().splitlines()
            found = json.loads(lines[-1]) if process.returncode == 0 and lines else {"failed": process.stderr[-4000:]}
        except subprocess.TimeoutExpired:
            found = {"failed": "not done after 120 s"}
        with open(journal, "a", encoding="utf-8") as file:
            file.write(json.dumps({**found, "block": block, "way": way.name, "batch": batch}) + "\n")
        result = found.get("failed") or f"{statistics.median(found['network_ms']):.3f} ms"
        print(f"block {block}, {way.name}, batch {batch}: {result.strip().splitlines()[-1]}", flush=True)
    return 0


def read_journal(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()] if journal.exists() else []


def score(journal: Path, tree: RunTree, method: str, size: Size) -> dict[str, Any]:
    """Medians and ratios to ``USUAL`` by block, the best throughput of each way, and its share of the floor."""
    found = read_journal(journal)
    ceilings = read_json(journal.with_name("gpu-ceilings.json"), "benchmarks.gpu_latency")
    sidecar = read_json(sidecar_path(tree.checkpoint(method)), "kdbench train")
    classes = len(sidecar["classes"])
    operations = 1e9 * count_gflops(sidecar["arch"], classes, size)
    moved = convolution_bytes(sidecar["arch"], classes, size)
    floors = {
        "operations_ms": 1e3 * operations / ceilings["operations_per_second"],
        "bytes_ms": 1e3 * moved / ceilings["bytes_per_second"],
    }
    floor = max(floors.values())
    rows = []
    for way in WAYS:
        ours = [m for m in found if m["way"] == way.name]
        ok = [m for m in ours if "failed" not in m]
        single = {m["block"]: statistics.median(m["image_to_mask_ms"]) for m in ok if m["batch"] == 1}
        usual = {
            m["block"]: statistics.median(m["image_to_mask_ms"])
            for m in found if m["way"] == USUAL and m["batch"] == 1 and "failed" not in m
        }  # fmt: skip
        both = sorted(single.keys() & usual.keys())
        by_batch = {m["batch"]: statistics.median(m["network_ms"]) for m in ok if m["block"] == 0}
        best = max(by_batch, key=lambda batch: batch / by_batch[batch]) if by_batch else None
        network = [statistics.median(m["network_ms"]) for m in ok if m["batch"] == 1]
        rows.append(
            {
                "way": way.name, "precision": way.precision, "blocks": len(single),
                "network_ms": statistics.median(network) if network else None,
                "image_to_mask_ms": statistics.median(single.values()) if single else None,
                "times_faster": ratio_with_interval([usual[b] for b in both], [single[b] for b in both])
                if len(both) > 1 else None,
                "images_per_second": {batch: 1e3 * batch / by_batch[batch] for batch in sorted(by_batch)},
                "share_of_floor": floor * best / by_batch[best] if best else None,
                "agreement": min((m["agreement"] for m in ok), default=None),
                "failed": sorted({m["failed"] for m in ours if "failed" in m}),
            }
        )  # fmt: skip
    return {
        "schema_version": 1, "benchmark": "gpu_latency", "size": list(size), "method": method, "rows": rows,
        "floors_per_image": floors, "ceilings": ceilings, "operations": operations, "bytes": moved,
        "measurements": found,
        "environment": {**environment(), "command": "python -m benchmarks.gpu_latency --score"},
    }  # fmt: skip


def as_text(report: dict[str, Any]) -> str:
    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    lines = [f"{'':<38}{'network ms':>12}{'image→mask':>12}{'x faster':>10}{'images/s':>10}{'of floor':>10}"]
    for row in report["rows"]:
        best = max(row["images_per_second"].values(), default=None)
        faster = row["times_faster"][0] if row["times_faster"] else None
        lines.append(
            f"{row['way']:<38}{shown(row['network_ms'], '.3f'):>12}{shown(row['image_to_mask_ms'], '.3f'):>12}"
            f"{shown(faster, '.2f'):>10}{shown(best, '.0f'):>10}{shown(row['share_of_floor'], '.2f'):>10}"
        )
        lines += [f"  failed: {reason.strip().splitlines()[-1]}" for reason in row["failed"]]
    floors = report["floors_per_image"]
    lines.append(f"floors, ms an image: operations {floors['operations_ms']:.5f}, bytes {floors['bytes_ms']:.5f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--method", default="baseline")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--batches", type=lambda text: tuple(map(int, text.split(","))), default=BATCHES)
    parser.add_argument("--minutes", type=float, default=7, help="stop after these; the same line goes on")
    parser.add_argument("--score", action="store_true", help="print what was measured so far")
    parser.add_argument("--json", type=Path, help="with --score: also write it to this file")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = parse_size(arguments.size)
    tree = RunTree(arguments.runs, arguments.dataset)
    journal = tree.root / "latency" / "gpu-latency.jsonl"
    if arguments.score:
        report = score(journal, tree, arguments.method, size)
        print(as_text(report))
        if arguments.json:
            write_json(arguments.json, report)
        print(json.dumps({key: report[key] for key in ("benchmark", "rows", "floors_per_image")}))
        return
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu_latency needs an NVIDIA GPU, and this PyTorch sees none")
    if arguments.one:
        way = next(way for way in WAYS if way.name == arguments.one[0])
        print(json.dumps(measure(way, tree, arguments.method, int(arguments.one[1]), size, arguments.data_root)))
        return
    journal.parent.mkdir(parents=True, exist_ok=True)
    left = run(arguments, journal)
    print(f"{left} measurements are left: run the same line again" if left else "done: now --score")


if __name__ == "__main__":
    main()
