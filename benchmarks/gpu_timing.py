"""Timing of one engine: network alone, from image to mask, a pipeline of batches; and the floors of the hardware.

On a CPU there are no streams and no events: the same loops run one step after the other, by the wall clock.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_engine import Engine
from kdbench.data.preprocessing import Size

SAMPLE_CALLS = 10
"""Passes between two events: one alone is too short for their resolution."""
LARGEST_CLASS = 253
"""What a network may write; memory that nobody wrote is filled with 255 before."""
SLOTS = 3
"""Batches under way in the pipeline: one arrives, one is computed, one leaves."""


class Moment:
    """A CUDA event, or on a CPU the time at which it was recorded."""

    def __init__(self, device: str) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if device == "cuda" else None
        self._seconds = 0.0

    def record(self) -> None:
        """Mark the end of what is on the current stream so far."""
        if self._event:
            self._event.record()
        self._seconds = time.perf_counter()

    def hold_up(self) -> None:
        """Let the current stream wait for it; at once where it was never recorded."""
        if self._event and self._seconds:
            torch.cuda.current_stream().wait_event(self._event)

    def wait(self) -> None:
        """Let this thread wait for it; at once where it was never recorded."""
        if self._event and self._seconds:
            self._event.synchronize()

    def milliseconds_since(self, earlier: Moment) -> float:
        self.wait()
        if self._event and earlier._event:
            return float(earlier._event.elapsed_time(self._event))
        return (self._seconds - earlier._seconds) * 1e3


def on_a_stream(device: str) -> Any:
    """A context on a new stream: the default one makes others wait, and cannot be captured."""
    return torch.cuda.stream(torch.cuda.Stream()) if device == "cuda" else contextlib.nullcontext()


def finish(device: str) -> None:
    """Wait for all that was put on the current stream."""
    if device == "cuda":
        torch.cuda.current_stream().synchronize()


def pinned(like: Tensor, device: str) -> Tensor:
    """Memory of the CPU, which a GPU can copy from and to by itself."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=device == "cuda")


def warm_up(engine: Engine, device: str, seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        engine.enqueue()
        finish(device)


def time_network(engine: Engine, device: str, samples: int) -> list[float]:
    """Milliseconds of a pass, images and masks staying where they are; each the mean of ``SAMPLE_CALLS``."""
    found = []
    for _ in range(samples):
        first, last = Moment(device), Moment(device)
        first.record()
        for _ in range(SAMPLE_CALLS):
            engine.enqueue()
        last.record()
        found.append(last.milliseconds_since(first) / SAMPLE_CALLS)
    return found


def time_image_to_mask(engine: Engine, images: Tensor, device: str, calls: int) -> list[float]:
    """Milliseconds by the wall clock from pinned images to pinned masks, both copies included, one call at a time.

    Args:
        images: N x H x W x 3 uint8 on the CPU, N the engine's batch.
    """
    sent = pinned(engine.images, device) if engine.sent is None else engine.sent
    received = pinned(engine.masks, device) if engine.received is None else engine.received
    sent.copy_(images)
    received.fill_(255)
    found = []
    for _ in range(calls):
        started = time.perf_counter()
        if engine.whole is not None:
            engine.whole()
        else:
            engine.images.copy_(sent, non_blocking=True)
            engine.enqueue()
            received.copy_(engine.masks, non_blocking=True)
        finish(device)
        found.append((time.perf_counter() - started) * 1e3)
    if (received > LARGEST_CLASS).any():
        raise RuntimeError("the masks that arrived are not the network's")
    return found


class Slot:
    """Buffers of one batch under way, and what must have happened before they are used again."""

    def __init__(self, engine: Engine, images: Tensor, device: str) -> None:
        self.sent, self.received = pinned(engine.images, device), pinned(engine.masks, device)
        self.sent.copy_(images)
        self.images, self.masks = torch.empty_like(engine.images), torch.empty_like(engine.masks)
        self.loaded, self.taken, self.computed, self.left = (Moment(device) for _ in range(4))


class Pipeline:
    """Batches from pinned images to pinned masks on three streams: while one is computed, the next one arrives and
    the last one leaves. The copies inside the GPU to and from the engine's own buffers are part of it.

    Args:
        images: N x H x W x 3 uint8 on the CPU, the same for every batch.
    """

    def __init__(self, engine: Engine, images: Tensor, device: str) -> None:
        self.engine, self.device = engine, device
        self.slots = [Slot(engine, images, device) for _ in range(SLOTS)]
        self.arriving, self.leaving = (torch.cuda.Stream() if device == "cuda" else None for _ in range(2))

    def run(self, batches: int) -> float:
        """Seconds by the wall clock for ``batches`` batches, the first one's arrival and the last one's leaving
        included."""
        finish(self.device)
        started = time.perf_counter()
        for index in range(batches):
            self._enqueue(self.slots[index % SLOTS])
        for slot in self.slots:
            slot.left.wait()
        return time.perf_counter() - started

    def _enqueue(self, slot: Slot) -> None:
        slot.left.wait()  # whoever reads the masks has had them
        with torch.cuda.stream(self.arriving):
            slot.taken.hold_up()
            slot.images.copy_(slot.sent, non_blocking=True)
            slot.loaded.record()
        slot.loaded.hold_up()
        self.engine.images.copy_(slot.images, non_blocking=True)
        slot.taken.record()
        self.engine.enqueue()
        slot.masks.copy_(self.engine.masks, non_blocking=True)
        slot.computed.record()
        with torch.cuda.stream(self.leaving):
            slot.computed.hold_up()
            slot.received.copy_(slot.masks, non_blocking=True)
            slot.left.record()


def measure_floors(device: str) -> dict[str, float]:
    """Bytes per second of a large copy (read and written), and fp16 operations per second of a large product."""
    n, count = (8192, 2**31) if device == "cuda" else (128, 2**20)

    def seconds(work: Callable[[], Any]) -> float:
        times = []
        for _ in range(23):
            first, last = Moment(device), Moment(device)
            first.record()
            work()
            last.record()
            times.append(last.milliseconds_since(first) / 1e3)
        return statistics.median(times[3:])

    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = seconds(lambda: target.copy_(source))
    a, b = (torch.randn(n, n, dtype=torch.float16, device=device) for _ in range(2))
    product = seconds(lambda: a @ b)
    return {"bytes_per_second": 2 * count / copy, "operations_per_second": 2 * n**3 / product}


def convolution_bytes(arch: str, classes: int, size: Size, bytes_per_value: int = 2) -> int:
    """What an image's convolutions read and write, each map once; weights are left out, a batch shares them."""
    from kdbench.models.registry import build_model

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
