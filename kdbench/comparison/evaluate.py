"""mIoU through a backend: the same images, preprocessing and confusion matrix whichever engine runs.

Decoding the next images and counting the last ones overlap with inference, so that the engine is busy nearly all of
the time (``benchmarks/evaluate_overlap.py`` measures the share).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.backends.base import Backend
from kdbench.comparison.metrics import confusion_matrix, iou_per_class, mean_iou
from kdbench.data import Sample, SegmentationDataset
from kdbench.data.preprocessing import resize_image, resize_label
from kdbench.errors import RunFailed
from kdbench.machine.cores import usable_cores

DECODERS = max(1, usable_cores() // 2)
"""Threads that decode; the other half of the cores is left to the engine."""
AHEAD = 4 + 2 * DECODERS
"""Images decoded ahead of the engine, and outputs waiting to be counted; bounds memory."""


@dataclass
class Evaluation:
    """What one pass over a split gives.

    Attributes:
        confusions: images x C x C counts, in dataset order: their sum is the split's confusion matrix.
        predictions: class map of each image at the engine's size, H x W uint8; empty unless they were asked for.
        seconds: wall-clock of the pass.
        engine_seconds: of which inside ``backend.infer``.
        engine: what ran: device, provider, threads.
    """

    confusions: NDArray[np.int64]
    predictions: list[NDArray[np.uint8]] = field(default_factory=list)
    seconds: float = 0.0
    engine_seconds: float = 0.0
    engine: dict[str, Any] = field(default_factory=dict)

    @property
    def miou(self) -> float:
        return mean_iou(self.confusions.sum(0))

    @property
    def iou_per_class(self) -> NDArray[np.float64]:
        return iou_per_class(self.confusions.sum(0))


def evaluate(
    backend: Backend,
    dataset: SegmentationDataset,
    *,
    keep_predictions: bool = False,
    on_image: Callable[[], None] | None = None,
) -> Evaluation:
    """Run a split through ``backend`` and count its pixels at the labels' own resolution.

    A ``mask`` is brought to the label's size by nearest neighbour, ``logits`` bilinearly before the argmax.

    Args:
        keep_predictions: also return each class map at the engine's size.
        on_image: called after each image, for progress.

    Raises:
        BadInput: a file of the dataset is broken. RunFailed: the engine returned NaN or infinite logits.
    """
    classes = len(dataset.classes)
    result = Evaluation(np.zeros((len(dataset), classes, classes), dtype=np.int64), engine=backend.details)
    outputs: queue.Queue[tuple[int, Sample, NDArray[Any]] | None] = queue.Queue(AHEAD)
    failures: list[BaseException] = []

    def count() -> None:
        while (item := outputs.get()) is not None:
            if failures:
                continue  # keep draining: the engine's thread must not block on a full queue
            try:
                index, sample, output = item
                prediction, mask = class_maps(output, sample.label.shape, f"{dataset.name} image '{sample.name}'")
                result.confusions[index] = confusion_matrix(sample.label, prediction, classes)
                if keep_predictions:
                    result.predictions.append(mask)
            except BaseException as error:  # handed to the caller's thread below
                failures.append(error)

    counter = threading.Thread(target=count, name="kdbench-count")
    started = time.perf_counter()
    counter.start()
    try:
        for index, (sample, batch) in enumerate(_decoded(backend, dataset)):
            before = time.perf_counter()
            output = backend.infer(batch)
            result.engine_seconds += time.perf_counter() - before
            outputs.put((index, sample, output))
            if on_image:
                on_image()
            if failures:
                break
    finally:
        outputs.put(None)
        counter.join()
    if failures:
        raise failures[0]
    result.seconds = time.perf_counter() - started
    return result


def _decoded(backend: Backend, dataset: SegmentationDataset) -> Iterator[tuple[Sample, NDArray[Any]]]:
    """Samples in order with the engine's input, decoded ahead of time (decoders release the lock)."""

    def load(index: int) -> tuple[Sample, NDArray[Any]]:
        sample = dataset[index]
        return sample, backend.prepare(resize_image(sample.image, backend.size))

    with ThreadPoolExecutor(DECODERS) as pool:
        pending = [pool.submit(load, index) for index in range(min(AHEAD, len(dataset)))]
        for following in range(AHEAD, len(dataset) + AHEAD):
            ready = pending.pop(0).result()
            if following < len(dataset):
                pending.append(pool.submit(load, following))
            yield ready


def class_maps(
    output: NDArray[Any], label_size: tuple[int, ...], what: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """From an engine's output for one image to class maps at the label's size and at the engine's.

    Args:
        output: 1 x H x W uint8 mask, or 1 x C x H x W float logits.
        label_size: (h, w) of the label.
        what: names the image in errors.
    """
    if output.dtype == np.uint8:
        mask = output[0]
        return resize_label(mask, (label_size[0], label_size[1])), mask
    if not np.isfinite(output).all():
        raise RunFailed(f"{what}: the engine returned NaN or infinite logits, expected finite ones")
    import torch
    import torch.nn.functional as F

    mask = output[0].argmax(0).astype(np.uint8)
    if output.shape[2:] == label_size:
        return mask, mask
    logits = F.interpolate(torch.from_numpy(output), size=label_size, mode="bilinear", align_corners=False)
    return logits[0].argmax(0).to(torch.uint8).numpy(), mask
