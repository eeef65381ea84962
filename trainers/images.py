"""A training split in memory: every image decoded and resized once, on the device where batches are made.

Images that would take more than half of the memory that is free stream from disk instead, in the same order: those of
the next batches are decoded, several at a time, while the current one trains.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdbench.data import SegmentationDataset
from kdbench.data.labels import IGNORE
from kdbench.data.preprocessing import Size, resize_image, resize_label
from kdbench.data.remembered import Remembered, fingerprint
from kdbench.data.unlabelled import ImagesWithoutLabels
from kdbench.machine.cores import usable_cores
from kdbench.progress import progress_bar
from trainers.processes import world_size

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]
BYTES_PER_PIXEL = 4
"""Three of the image and one of the label."""
AHEAD = 2
"""Batches that are decoded while one trains."""
WEIGHED = 1000
"""Labels that class weights are counted from, evenly spaced, whether images stream or not: they start soon, and depend
on the data alone."""
CAP = 5.0
"""Of class weights, which are also those of a class that none of the counted labels has though others may."""


@dataclass(frozen=True)
class Beside:
    """What else ``TrainingImages`` are made with.

    Attributes:
        unlabelled: images that come after the split's.
        memory: bytes that all of them may take together; None = half of what is free.
        remembered: where class weights are kept, which hold as long as the files are the same.
    """

    unlabelled: ImagesWithoutLabels | None = None
    memory: int | None = None
    remembered: Remembered | None = None


class TrainingImages:
    """The first images of a training split, at one size.

    Args:
        dataset: the training split.
        size: (H, W) that images are resized to.
        count: how many of them; None = all.
        device: where ``gather`` puts them.
        beside: images without labels, and where things are kept.

    Attributes:
        with_masks: how many have labels; the first ones.
        count: of all.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        size: Size,
        count: int | None,
        device: torch.device,
        beside: Beside = Beside(),
    ) -> None:
        unlabelled, memory = beside.unlabelled, beside.memory
        self.dataset, self.size, self.device, self._unlabelled = dataset, size, device, unlabelled
        self._remembered = beside.remembered
        self.with_masks = min(len(dataset), count or len(dataset))
        self.count = self.with_masks + (0 if unlabelled is None else len(unlabelled))
        self._decoded: list[Arrays] | None = None
        self._resident: tuple[Tensor, Tensor] | None = None
        needed = self.count * size[0] * size[1] * BYTES_PER_PIXEL
        # Every process may need every image, and the processes of a machine start at the same time.
        if needed * world_size() < (psutil.virtual_memory().available / 2 if memory is None else memory):
            with ThreadPoolExecutor(usable_cores()) as pool, progress_bar(f"decode {dataset.name}", self.count) as bar:
                self._decoded = []
                for arrays in pool.map(self._decode, range(self.count)):
                    self._decoded.append(arrays)
                    bar.advance()
            if device.type == "cuda" and needed < torch.cuda.mem_get_info(device)[0] / 2:
                images, labels = (np.stack(arrays) for arrays in zip(*self._decoded, strict=True))
                self._resident = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)

    @property
    def on_device(self) -> bool:
        """Whether ``gather`` copies nothing from the host."""
        return self._resident is not None

    @property
    def streams(self) -> bool:
        """Whether images are decoded when they are needed."""
        return self._decoded is None

    def batches(self, chunks: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """``gather`` of each chunk of indices, made ready while the one before is in use.

        Raises:
            BadInput: an image that streams cannot be read; the first epoch meets every one.
        """
        if self.on_device:
            yield from map(self.gather, chunks)
            return
        waiting: deque[list[Future[Arrays]] | Future[tuple[Tensor, Tensor]]] = deque()
        pool = ThreadPoolExecutor(max_workers=max(2, usable_cores()) if self.streams else 1)
        try:
            for chunk in chunks:
                # Of images in memory only stacking is left, which one thread does.
                waiting.append(
                    [pool.submit(self._decode, index) for index in chunk]
                    if self.streams
                    else pool.submit(self.gather, chunk)
                )
                if len(waiting) > (AHEAD if self.streams else 1):
                    yield self._ready(waiting.popleft())
            while waiting:
                yield self._ready(waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _ready(self, made: list[Future[Arrays]] | Future[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return self._stacked([one.result() for one in made]) if isinstance(made, list) else made.result()

    def gather(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """N x 3 x H x W uint8 images and N x H x W uint8 labels."""
        if self._resident is not None:
            chosen = torch.tensor(indices).to(self.device, non_blocking=True)
            images, labels = (kept.index_select(0, chosen) for kept in self._resident)
            return images.permute(0, 3, 1, 2), labels
        return self._stacked([self._array(i) for i in indices])

    def _stacked(self, arrays: list[Arrays]) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(np.stack([image for image, _ in arrays])).permute(0, 3, 1, 2)
        labels = torch.from_numpy(np.stack([label for _, label in arrays]))
        return images.to(self.device), labels.to(self.device)

    def class_frequencies(self, indices: Sequence[int]) -> Tensor:
        """Median-frequency weights, at most ``CAP``, and 0 for a class without pixels: C float (Eigen & Fergus 2015).

        Of more than ``WEIGHED`` images, as many are counted, evenly spaced; a class that none of them has gets ``CAP``.
        """
        if self._remembered is None:
            return torch.tensor(self._count_classes(indices), dtype=torch.float32)
        what = f"class weights at {self.size} of {list(indices)}, {WEIGHED} counted"
        weights = self._remembered.get(what, self._files, lambda: self._count_classes(indices))
        return torch.tensor(weights, dtype=torch.float32)

    @cached_property
    def _files(self) -> str | None:
        """Of the split; asked once for every seed and group of methods."""
        return fingerprint(self.dataset)

    def _count_classes(self, indices: Sequence[int]) -> list[float]:
        classes = len(self.dataset.classes)
        counted = [indices[at * len(indices) // WEIGHED] for at in range(WEIGHED)]
        counted = counted if len(indices) > WEIGHED else list(indices)
        counts = np.zeros((2, classes))  # pixels of the class; valid pixels of the images that have the class
        with ThreadPoolExecutor(usable_cores()) as pool:
            for label in pool.map(self._label, counted):
                pixels = np.bincount(label[label != IGNORE], minlength=classes)
                counts[0] += pixels
                counts[1] += np.where(pixels > 0, pixels.sum(), 0)
        frequency = np.divide(counts[0], counts[1], out=np.zeros(classes), where=counts[1] > 0)
        median = np.median(frequency[frequency > 0])
        unseen = CAP if len(counted) < len(indices) else 0.0
        weights = np.divide(median, frequency, out=np.full(classes, unseen), where=frequency > 0)
        found: list[float] = weights.clip(max=CAP).tolist()
        return found

    def _label(self, index: int) -> NDArray[np.uint8]:
        return self._decoded[index][1] if self._decoded else resize_label(self.dataset.label(index), self.size)

    def _array(self, index: int) -> Arrays:
        return self._decoded[index] if self._decoded else self._decode(index)

    def _decode(self, index: int) -> Arrays:
        if self._unlabelled is not None and index >= self.with_masks:
            sample = self._unlabelled[index - self.with_masks]
        else:
            sample = self.dataset[index]
        return resize_image(sample.image, self.size), resize_label(sample.label, self.size)
