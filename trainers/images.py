"""A training split in memory: every image decoded and resized once, on the device where batches are made.

Images that take more than half of the memory that is free are decoded when needed instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdbench.data import SegmentationDataset
from kdbench.data.labels import IGNORE
from kdbench.data.preprocessing import Size, resize_image, resize_label
from kdbench.progress import progress_bar
from trainers.processes import world_size

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]
BYTES_PER_PIXEL = 4
"""Three of the image and one of the label."""


class TrainingImages:
    """The first images of a training split, at one size.

    Args:
        dataset: the training split.
        size: (H, W) that images are resized to.
        count: how many of them; None = all.
        device: where ``gather`` puts them.
    """

    def __init__(self, dataset: SegmentationDataset, size: Size, count: int | None, device: torch.device) -> None:
        self.dataset, self.size, self.device = dataset, size, device
        self.count = min(len(dataset), count or len(dataset))
        self._decoded: list[Arrays] | None = None
        self._resident: tuple[Tensor, Tensor] | None = None
        needed = self.count * size[0] * size[1] * BYTES_PER_PIXEL
        # Every process may need every image, and the processes of a machine start at the same time.
        if needed * world_size() < psutil.virtual_memory().available / 2:
            with ThreadPoolExecutor() as pool, progress_bar(f"decode {dataset.name}", self.count) as bar:
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

    def gather(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """N x 3 x H x W uint8 images and N x H x W uint8 labels."""
        if self._resident is not None:
            chosen = torch.tensor(indices).to(self.device, non_blocking=True)
            images, labels = (kept.index_select(0, chosen) for kept in self._resident)
            return images.permute(0, 3, 1, 2), labels
        arrays = [self._array(i) for i in indices]
        images = torch.from_numpy(np.stack([image for image, _ in arrays])).permute(0, 3, 1, 2)
        labels = torch.from_numpy(np.stack([label for _, label in arrays]))
        return images.to(self.device), labels.to(self.device)

    def class_frequencies(self, indices: Sequence[int]) -> Tensor:
        """Median-frequency weights, capped at 5 and 0 for a class without pixels: C float (Eigen & Fergus 2015)."""
        classes = len(self.dataset.classes)
        counts = np.zeros((2, classes))  # pixels of the class; valid pixels of the images that have the class
        for index in indices:
            _, label = self._array(index)
            pixels = np.bincount(label[label != IGNORE], minlength=classes)
            counts[0] += pixels
            counts[1] += np.where(pixels > 0, pixels.sum(), 0)
        frequency = np.divide(counts[0], counts[1], out=np.zeros(classes), where=counts[1] > 0)
        median = np.median(frequency[frequency > 0])
        weights = np.divide(median, frequency, out=np.zeros(classes), where=frequency > 0)
        return torch.tensor(weights.clip(max=5.0), dtype=torch.float32)

    def _array(self, index: int) -> Arrays:
        return self._decoded[index] if self._decoded else self._decode(index)

    def _decode(self, index: int) -> Arrays:
        sample = self.dataset[index]
        return resize_image(sample.image, self.size), resize_label(sample.label, self.size)
