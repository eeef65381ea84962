"""PyTorch: eager, the reference that every other backend is held against; in channels-last; and compiled."""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdbench.backends.base import Backend
from kdbench.backends.precision_proof import share_by_type
from kdbench.data.preprocessing import Size
from kdbench.errors import BackendUnavailable, one_line
from kdbench.machine.cores import is_asked, need_answers_alone
from kdbench.models.deployed import deployable
from kdbench.models.layers import layer_weights
from kdbench.models.registry import load_model
from kdbench.models.segmentation import SegmentationModel

TRIALS, TRIAL_S = 3, 0.2
"""Calls by which a number of threads is judged, and seconds after which there are no further ones."""
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class TorchBackend(Backend):
    """A model, run by PyTorch eager in float32, as it lies in memory."""

    def __init__(self, model: SegmentationModel, *, output: str, size: Size, device: str = "cpu") -> None:
        self.output, self.size, self.input = output, size, model.input
        self._device = torch.device(device)
        module = deployable(model, output).to(self._device)
        self._module: Any = module
        self.details = {
            "device": str(self._device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "precision": "fp32",
            "operators": share_by_type(TYPES.get(w.dtype, str(w.dtype)) for w in layer_weights(model).values()),
        }

    @classmethod
    def load(
        cls, artifact: Path, *, output: str, size: Size | None, device: str, threads: int, name: str = "torch"
    ) -> TorchBackend:
        """Load a checkpoint; otherwise as ``declared.Load``.

        Args:
            name: "torch" is what people usually run: contiguous N x C x H x W memory. "torch-channels-last" has
                weights and images in N x H x W x C order, which the CPU's convolutions prefer. "torch-compile" is that
                through ``torch.compile``.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable(f"{name}: --device cuda was asked for, but this PyTorch sees no GPU")
        torch.set_num_threads(threads)
        model, sidecar = load_model(artifact, made_by=f"kdbench train --method {artifact.parent.name}")
        height, width = size or sidecar["size"]
        layout = torch.contiguous_format if name == "torch" else torch.channels_last
        model.to(memory_format=layout)  # type: ignore[call-overload]
        # Normalising an H x W x 3 image leaves channels-last strides, which the network would follow.
        logits = model.logits
        model.logits = lambda images: logits(images.contiguous(memory_format=layout))  # type: ignore[method-assign]
        backend = cls(model, output=output, size=(height, width), device=device)
        if name == "torch-compile":
            backend._compile()  # for a number of threads
        else:
            backend.settle_threads(threads)
        return backend

    def settle_threads(self, most: int) -> None:
        """Where answers alone matter, run from now on on one thread or on ``most``, whichever is faster now.

        PyTorch's threads cannot sleep while they wait for each other without losing what they gain, and beside a busy
        neighbour they cost more than they bring. What a person asked for stands.
        """
        if self._device.type != "cpu" or not need_answers_alone() or is_asked():
            return
        shape, dtype = self.expected_input()
        image: NDArray[Any] = np.zeros(shape, dtype)
        fastest: dict[int, float] = {}
        for threads in sorted({1, most}):
            torch.set_num_threads(threads)
            self.infer(image)  # starts the threads
            taken: list[float] = []
            while len(taken) < TRIALS and sum(taken) < TRIAL_S:
                started = time.perf_counter()
                self.infer(image)
                taken.append(time.perf_counter() - started)
                if taken[0] > 2 * fastest.get(1, math.inf):
                    break  # by far
            fastest[threads] = min(taken)
        torch.set_num_threads(min(fastest, key=lambda threads: fastest[threads]))
        self.details["threads"] = torch.get_num_threads()

    def _compile(self) -> None:
        """Compile by one call on a black image, so that no timed call does it.

        Raises:
            BackendUnavailable: torch.compile cannot work here, for want of a compiler above all.
        """
        shape, dtype = self.expected_input()
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own parts, while it loads its compiler
                self._module = torch.compile(self._module)
                self.infer(np.zeros(shape, dtype))
        except Exception as error:  # the compiler's own classes differ between versions
            reason = one_line(error, 200)
            raise BackendUnavailable(
                f"torch-compile: torch.compile failed ({type(error).__name__}: {reason}): on the CPU it needs a C++ "
                "compiler, for example `apt install g++`"
            ) from error
        self.details["compile_seconds"] = round(time.perf_counter() - started, 2)

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            # from_numpy shares memory and must not be given a read-only array
            source = torch.from_numpy(batch if batch.flags.writeable else np.array(batch))
            return self._module(source.to(self._device)).cpu().numpy()

    def close(self) -> None:
        del self._module
