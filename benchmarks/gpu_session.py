"""One run of ``gpu_latency``: what it measures on, where its lines go, and how a way is opened and checked."""

from __future__ import annotations

import faulthandler
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_engine import Engine
from benchmarks.gpu_timing import warm_up
from benchmarks.gpu_ways import WAYS, Opener, Way, module_key
from kdbench.comparison.metrics import confusion_matrix, mean_iou
from kdbench.data import Sample
from kdbench.data.preprocessing import Size, resize_image, resize_label

LEAST_AGREEMENT = {"fp32": 0.998, "fp16": 0.99}
"""Share of pixels with float32's class below which a way is not the same model (TF32 counts as fp32)."""
WARMUP_SECONDS = {"cuda": 0.3, "cpu": 0.0}
STEP_LIMIT_SECONDS = 60
"""A step that takes longer has its stack printed: a call into a driver cannot be stopped from within."""
COMPILE_SECONDS, AUTOTUNE_SECONDS, CACHED_SECONDS = 60.0, 150.0, 13.0
"""To open a compiled network, to one whose products are timed, and to one that is in the compiler's cache: as seen on
an H200's machine of 16 cores. A way is not opened with less time left."""


@dataclass
class Session:
    """One run: where its lines go, and when it must end.

    Attributes:
        until: on ``time.monotonic``'s clock.
        cached: ``module_key`` of what is in the compiler's cache; None = everything.
    """

    opener: Opener
    journal: Path
    until: float
    cached: set[tuple[Any, ...]] | None = field(default_factory=set)

    def seconds_to_open(self, way: Way, batch: int, size: Size) -> float:
        """A guess, 0 where nothing is compiled."""
        if way.runtime != "torch.compile" or self.opener.has_module(way, batch, size):
            return 0.0
        if self.cached is None or module_key(way, batch, size) in self.cached:
            return CACHED_SECONDS
        return AUTOTUNE_SECONDS if way.autotune else COMPILE_SECONDS

    @property
    def device(self) -> str:
        return self.opener.device

    def write(self, kind: str, **fields: Any) -> None:
        with open(self.journal, "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **fields}) + "\n")

    def attempt(self, what: str, where: dict[str, Any], work: Callable[[], Any]) -> Any:
        """Do one step, or write down why it failed; None then."""
        print(what, flush=True)
        faulthandler.dump_traceback_later(STEP_LIMIT_SECONDS, repeat=True, file=sys.stdout)
        try:
            return work()
        except Exception as error:
            text = "".join(traceback.format_exception(error))[-4000:].strip().replace(f"{Path.cwd()}/", "")
            self.write("failed", **where, failed=text)
            print(f"  failed: {text.splitlines()[-1]}", flush=True)
            return None
        finally:
            faulthandler.cancel_dump_traceback_later()

    def has_time(self, where: dict[str, Any], seconds: float, until: float) -> bool:
        """Whether ``seconds`` are left; a step without is written down."""
        if time.monotonic() + seconds <= until:
            return True
        self.write("failed", **where, failed="not measured: the time was up")
        return False


@dataclass
class Scene:
    """What one image size is measured on.

    Attributes:
        images: N x H x W x 3 uint8 on the CPU, the validation split.
        reference: N x H x W uint8, PyTorch's float32 masks with TF32 off.
    """

    size: Size
    samples: list[Sample]
    images: Tensor
    reference: Tensor

    def where(self, way: Way, batch: int) -> dict[str, Any]:
        """Names a measurement in the results file."""
        return {"way": way.name, "size": f"{self.size[0]}x{self.size[1]}", "batch": batch}

    def batch(self, count: int) -> Tensor:
        return self.images[torch.arange(count) % len(self.images)]

    def miou(self, masks: Tensor, classes: int) -> float:
        """At the labels' own resolution, as ``kdbench.comparison.evaluate`` counts."""
        total = np.zeros((classes, classes), dtype=np.int64)
        for sample, mask in zip(self.samples, masks.numpy(), strict=True):
            height, width = sample.label.shape
            total += confusion_matrix(sample.label, resize_label(mask, (height, width)), classes)
        return mean_iou(total)


def predict(engine: Engine, images: Tensor) -> Tensor:
    """Masks of all images on the CPU; a last batch that is not full is filled from the first images."""
    batch, found = len(engine.images), []
    for start in range(0, len(images), batch):
        engine.images.copy_(images[torch.arange(start, start + batch) % len(images)])
        engine.masks.fill_(255)  # what is not written agrees with nothing
        engine.enqueue()
        found.append(engine.masks.to("cpu", copy=True))
    return torch.cat(found)[: len(images)]


def open_scene(opener: Opener, samples: list[Sample], size: Size) -> Scene:
    images = torch.from_numpy(np.stack([resize_image(sample.image, size) for sample in samples]))
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        reference = predict(opener.open(WAYS[0], 1, size), images)
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    return Scene(size, samples, images, reference)


def open_way(session: Session, scene: Scene, way: Way, batch: int) -> Engine:
    """Open a way, hold its masks against float32's and the labels, and write that down.

    Raises:
        RuntimeError: fewer pixels have float32's class than its precision allows.
    """
    started = time.perf_counter()
    engine = session.opener.open(way, batch, scene.size)
    seconds = time.perf_counter() - started
    masks = predict(engine, scene.images)
    agreement = float((masks == scene.reference).double().mean())
    manifest = session.opener.bundle.manifest
    valid = int(masks.max()) < len(manifest["classes"])
    session.write(
        "open", **scene.where(way, batch), load_seconds=seconds, about=engine.about, agreement=agreement,
        miou=scene.miou(masks, len(manifest["classes"])) if valid else None,
    )  # fmt: skip
    if agreement < LEAST_AGREEMENT[way.precision]:
        least = LEAST_AGREEMENT[way.precision]
        raise RuntimeError(f"{agreement:.4f} of pixels have float32's class, expected at least {least}")
    warm_up(engine, session.device, WARMUP_SECONDS[session.device])
    return engine
