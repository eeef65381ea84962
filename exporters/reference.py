"""What exports are held against: an engine that answers the same image once, for all exports of a job."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from kdbench.backends.onnx_runtime import OnnxBackend
from kdbench.backends.torch_eager import TorchBackend

Infer = Callable[[NDArray[Any]], NDArray[Any]]


class TorchReference(TorchBackend):
    """PyTorch in float32, of a trained network."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept: dict[bytes, NDArray[Any]] = {}

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        return _once(super().infer, batch, self._kept) if self.output == "mask" else super().infer(batch)


class OnnxReference(OnnxBackend):
    """ONNX Runtime in float32, of an imported file."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept: dict[bytes, NDArray[Any]] = {}

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        return _once(super().infer, batch, self._kept) if self.output == "mask" else super().infer(batch)


def _once(infer: Infer, batch: NDArray[Any], kept: dict[bytes, NDArray[Any]]) -> NDArray[Any]:
    """The kept answer, or a new one. Masks alone are kept: logits are 4 bytes for each class and pixel, not one."""
    key = hashlib.blake2b(batch.tobytes()).digest()
    if key not in kept:
        kept[key] = infer(batch)
    return kept[key]
