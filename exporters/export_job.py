"""What every exporter works on: a trained student, how it is to be exported, and its traced graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.graph import write_graph
from exporters.half import half_copy
from exporters.reference import remember_masks
from exporters.sensitivity import LayerError, layer_errors
from exporters.stopwatch import Stopwatch
from kdbench.backends.precision_proof import LEAST_SHARE
from kdbench.backends.torch_eager import TorchBackend
from kdbench.data import Sample
from kdbench.data.normalisation import Input
from kdbench.data.preprocessing import Size, normalise, resize_image
from kdbench.errors import BadInput
from kdbench.machine.cores import answer_threads
from kdbench.machine.environment import environment
from kdbench.machine.scratch import ScratchFolder
from kdbench.models.architectures import require_size
from kdbench.models.deployed import deployable
from kdbench.models.layers import layer_kinds, layer_weights
from kdbench.models.registry import load_model
from kdbench.runs.files import SCHEMA_VERSION
from kdbench.runs.tree import RunTree

SENSITIVITY_IMAGES = 4


@dataclass
class ExportJob:
    """One method of a run tree, to be exported with one output and size; a context manager.

    Attributes:
        output: "logits" or "mask".
        size: (H, W) of the input; None = that of training.
        samples: real labelled images that exports are compared with PyTorch on.
        calibration: H x W x 3 uint8 training images that int8 ranges come from.
        keep_float: layers that int8 leaves in float: names, or how many of those that hurt most.
        allow_drift: keep an export whose outputs are further from PyTorch's than its precision may be.
        dynamic_batch: leave the batch open.
        capabilities: GPUs that engines are built for ahead of time, by compute capability; () = common ones.

    Raises:
        Missing: the method was not trained. BadInput: a name in ``keep_float`` is no layer.
    """

    tree: RunTree
    method: str
    output: str
    size: Size | None = None
    samples: Sequence[Sample] = ()
    calibration: Sequence[NDArray[np.uint8]] = ()
    keep_float: tuple[str, ...] | int = ()
    allow_drift: bool = False
    dynamic_batch: bool = False
    capabilities: tuple[str, ...] = ()
    trained: dict[str, Any] = field(init=False)
    watch: Stopwatch = field(default_factory=Stopwatch, init=False)
    reference_name: ClassVar[str] = "PyTorch"

    def __post_init__(self) -> None:
        self._open()
        known, kinds = self.layers()
        kept = self.keep_float if isinstance(self.keep_float, int) else len(set(self.keep_float))
        if kept > (1 - LEAST_SHARE) * len(known):
            raise BadInput(
                f"--keep-float: got {kept} of {len(known)} {kinds}, expected at most half of them: "
                "what is left would be no int8 model; export --precision fp16 or fp32 instead"
            )
        if not isinstance(self.keep_float, int):
            wrong = [name for name in self.keep_float if name not in known]
            if wrong:
                raise BadInput(
                    f"--keep-float: got '{wrong[0]}', expected a number, or names of {kinds} such as "
                    f"{known[0]}, {known[-1]}: `kdbench export --precision int8` names those that hurt most"
                )
        self._folder = ScratchFolder("export")
        self._graphs: dict[tuple[bool, bool], Path] = {}

    def _open(self) -> None:
        """Set ``trained``, ``size``, and what is exported."""
        command = f"kdbench train --method {self.method} --dataset {self.tree.dataset}"
        self.model, self.trained = load_model(self.tree.checkpoint(self.method), command)
        height, width = self.size or self.trained["size"]
        self.size = (height, width)
        require_size(self.trained["arch"], self.size)

    def layers(self) -> tuple[list[str], str]:
        """The names that ``keep_float`` may have, and what such layers are called."""
        return list(layer_weights(self.model)), layer_kinds(self.model)

    @property
    def input(self) -> Input:
        """How the network wants its images."""
        return self.model.input

    @property
    def mask_stride(self) -> int:
        """Rows and columns of ``logits`` that hold one value."""
        return self.model.mask_stride

    def standing(self, name: str, precision: str) -> Path | None:
        """The export of a format and precision that is there by nature, and never made again; None = no such."""
        return None

    def __enter__(self) -> ExportJob:
        # PyTorch and the exports take turns in this process, so that each needs few threads.
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(min(self._threads_before, answer_threads()))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        torch.set_num_threads(self._threads_before)
        self._folder.cleanup()

    def graph(self, *, half: bool = False, elementwise: bool = False) -> Path:
        """An ONNX file of the model, traced once: in float16 when ``half``; see ``MaskModel`` for ``elementwise``."""
        key = (half, elementwise)
        if key not in self._graphs:
            path = Path(self._folder.name) / f"{'fp16' if half else 'fp32'}{'-elementwise' * elementwise}.onnx"
            model = half_copy(self.model) if half else self.model
            module = deployable(model, self.output, elementwise=elementwise)
            assert self.size is not None
            with self.watch.part("tracing"):
                write_graph(module, self.output, self.size, path, dynamic_batch=self.dynamic_batch)
            self._graphs[key] = path
        return self._graphs[key]

    @cached_property
    def reference(self) -> TorchBackend:
        """PyTorch in float32, which exports are held against."""
        assert self.size is not None
        backend = TorchBackend(self.model, output=self.output, size=self.size)
        backend.settle_threads(answer_threads())
        return remember_masks(backend)

    def logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The reference's logits of an H x W x 3 image of the job's size."""
        with torch.inference_mode():
            result: NDArray[np.float32] = self.model(torch.from_numpy(normalise(image[None], self.input))).numpy()
        return result

    def fits_float16(self) -> bool:
        """Whether the logits stay finite where activations are kept in 16 bits, as no engine on a processor keeps them.

        On one image: PyTorch computes so some twenty times as slowly, and a range is seen on the first.
        """
        assert self.size is not None
        image = resize_image(self.samples[0].image, self.size)
        with torch.inference_mode():
            logits = half_copy(self.model)(torch.from_numpy(normalise(image[None], self.input)).half())
        return bool(torch.isfinite(logits).all())

    def calibration_batches(self) -> list[NDArray[Any]]:
        """The calibration images as the network takes them."""
        if not self.calibration:
            raise BadInput("int8: got no training image, expected real ones to calibrate on: give --data-root")
        assert self.size is not None
        return [self.reference.prepare(resize_image(image, self.size)) for image in self.calibration]

    @cached_property
    def layer_errors(self) -> list[LayerError]:
        """What 8 bits in one layer alone do to the logits, worst first."""
        assert self.size is not None
        images = [resize_image(image, self.size) for image in self.calibration[:SENSITIVITY_IMAGES]]
        with self.watch.part("ranking layers for int8"):
            return layer_errors(self.model, images)

    @property
    def float_layers(self) -> tuple[str, ...]:
        """The layers that int8 leaves in float.

        Raises:
            BadInput: a number of them was asked for, and fewer can be ranked.
        """
        if isinstance(self.keep_float, int):
            ranked = [error.layer for error in self.layer_errors]
            if len(ranked) < self.keep_float:
                known, kinds = self.layers()
                raise BadInput(
                    f"--keep-float: got {self.keep_float}, expected at most {len(ranked)}, as many {kinds} of "
                    f"'{self.method}' as 8 bits can be tried in one by one: name them instead, as in --keep-float "
                    f"{known[-1]}"
                )
            return tuple(ranked[: self.keep_float])
        return self.keep_float

    def path(self, export_format: str, precision: str) -> Path:
        return self.tree.export(self.method, export_format, precision, self.output)

    def about(self) -> dict[str, Any]:
        """The fields that every export's sidecar has."""
        assert self.size is not None
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "export",
            "output": self.output,
            "method": self.method,
            "dataset": self.tree.dataset,
            "classes": self.trained["classes"],
            "palette": self.trained["palette"],
            "size": list(self.size),
            **self.input.fields(),
            "batch": "dynamic" if self.dynamic_batch else 1,
            "checkpoint_sha256": self.trained["sha256"],
            "environment": environment(),
        }

    def int8_fields(self) -> dict[str, Any]:
        """What an int8 sidecar adds: how it was calibrated, what stayed in float, which layers hurt most."""
        return {
            "calibration_images": len(self.calibration),
            "keep_float": list(self.float_layers),
            "layer_errors": [
                {"layer": e.layer, "logit_error": e.logit_error, "changed": e.changed} for e in self.layer_errors
            ],
        }

    def training_sidecar(self) -> dict[str, Any]:
        """The checkpoint's sidecar as it travels in an ONNX file: without what only matters on the training machine."""
        return {key: value for key, value in self.trained.items() if key not in ("data_root", "classes", "palette")}
