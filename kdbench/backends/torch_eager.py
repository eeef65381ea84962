"""PyTorch, eager: the reference that every other backend is held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdbench.backends.base import Backend
from kdbench.data.preprocessing import Size
from kdbench.errors import BackendUnavailable
from kdbench.models.deploy import deployable, load_model
from kdbench.models.segmentation import SegmentationModel


class TorchBackend(Backend):
    """A checkpoint, run by PyTorch in float32."""

    def __init__(self, model: SegmentationModel, *, output: str, size: Size, device: str = "cpu") -> None:
        self.output, self.size = output, size
        self._device = torch.device(device)
        self._module = deployable(model, output).to(self._device)
        self.details = {"device": str(self._device), "threads": torch.get_num_threads(), "precision": "fp32"}

    @classmethod
    def load(cls, artifact: Path, *, output: str, size: Size | None, device: str, threads: int) -> TorchBackend:
        if device == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable("torch: --device cuda was asked for, but this PyTorch sees no GPU")
        torch.set_num_threads(threads)
        model, sidecar = load_model(artifact, made_by=f"kdbench train --method {artifact.parent.name}")
        height, width = size or sidecar["size"]
        return cls(model, output=output, size=(height, width), device=device)

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            # from_numpy shares memory and must not be given a read-only array
            source = torch.from_numpy(batch if batch.flags.writeable else np.array(batch))
            return self._module(source.to(self._device)).cpu().numpy()

    def close(self) -> None:
        del self._module
