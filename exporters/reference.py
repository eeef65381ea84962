"""What exports are held against: an engine that answers the same image once, for all exports of a job."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

from numpy.typing import NDArray

from kdbench.backends.base import Backend

Engine = TypeVar("Engine", bound=Backend)


def remember_masks(engine: Engine) -> Engine:
    """The engine itself, which from now on keeps its masks. Logits are 4 bytes for each class and pixel: not kept."""
    if engine.output != "mask":
        return engine
    infer = engine.infer
    kept: dict[bytes, NDArray[Any]] = {}

    def once(batch: NDArray[Any]) -> NDArray[Any]:
        key = hashlib.blake2b(batch.tobytes()).digest()
        if key not in kept:
            kept[key] = infer(batch)
        return kept[key]

    engine.infer = once  # type: ignore[method-assign]
    return engine
