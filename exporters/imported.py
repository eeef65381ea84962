"""An imported ONNX file as something to export: it stands for a checkpoint, and its fp32 run for PyTorch."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.export_job import SENSITIVITY_IMAGES, ExportJob
from exporters.half_graph import half_graph
from exporters.mask_logits import return_logits
from exporters.onnx_sensitivity import layer_errors, weighted_layers
from exporters.reference import remember_masks
from exporters.sensitivity import LayerError
from kdbench.backends.exported import read_export
from kdbench.backends.onnx_runtime import OnnxBackend, open_session
from kdbench.data.normalisation import Input
from kdbench.data.preprocessing import resize_image
from kdbench.errors import BadInput, Missing
from kdbench.machine.cores import answer_threads
from kdbench.runs.imported import read_imported


class ImportedJob(ExportJob):
    """As ``ExportJob``, of a file that ``kdbench import`` took in.

    Raises:
        Missing: nothing of that name was imported. BadInput: another size, or an open batch.
    """

    reference_name = "its fp32 ONNX"

    def _open(self) -> None:
        self.trained = read_imported(self.tree.imported(self.method))
        built = (self.trained["size"][0], self.trained["size"][1])
        if self.size not in (None, built):
            raise BadInput(
                f"--size: got {self.size[0]}x{self.size[1]}, '{self.method}' was imported at {built[0]}x{built[1]}: "
                "import the file again with another --size, where it leaves it open"
            )
        self.size = built
        if self.dynamic_batch:
            raise BadInput(f"--dynamic-batch: '{self.method}' was imported, with a batch of 1: leave it out")
        self._source = self.path("onnx", "fp32")
        if not self._source.is_file():
            raise Missing(
                f"no '{self._source}': "
                + (f"'{self.trained['source']['file']}' returns no logits for {self.output} exports: use --output mask"
                   if self.output == "logits" else "import the file again with --overwrite")
            )  # fmt: skip
        read_export(self._source, "onnx", None)  # what everything else is made from, and held against

    def layers(self) -> tuple[list[str], str]:
        import onnx

        return list(weighted_layers(onnx.load(self._source, load_external_data=False).graph)), "layers"

    @property
    def input(self) -> Input:
        return Input.recorded(self.trained)

    @property
    def mask_stride(self) -> int:
        return 1

    def standing(self, name: str, precision: str) -> Path | None:
        return self._source if (name, precision) == ("onnx", "fp32") else None

    def graph(self, *, half: bool = False, elementwise: bool = False) -> Path:
        """The wrapped file, whose argmax is always one operator; in float16 when ``half``."""
        if not half:
            return self._source
        path = Path(self._folder.name) / "fp16.onnx"
        if not path.exists():
            half_graph(self._source, path)
        return path

    @cached_property
    def reference(self) -> OnnxBackend:  # type: ignore[override]
        """ONNX Runtime in float32, which exports are held against."""
        backend = OnnxBackend.open(self._source, output=self.output, threads=answer_threads(), spinning=False)
        backend.input = self.input
        return remember_masks(backend)

    def logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        session, batch = self._logits_session, self.reference.prepare(image)
        result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: batch})[0]
        return result

    @cached_property
    def _logits_session(self) -> Any:
        import onnx

        model = onnx.load(self._source)
        return_logits(model)
        path = Path(self._folder.name) / "logits-of-mask.onnx"
        onnx.save(model, path)
        return open_session(path, threads=answer_threads(), spinning=False)[0]

    def fits_float16(self) -> bool:
        """Not known: no engine here keeps activations in 16 bits."""
        return True

    @cached_property
    def layer_errors(self) -> list[LayerError]:
        assert self.size is not None
        images = [resize_image(image, self.size) for image in self.calibration[:SENSITIVITY_IMAGES]]
        with self.watch.part("ranking layers for int8"):
            return layer_errors(self._source, [self.reference.prepare(image) for image in images])

    def about(self) -> dict[str, Any]:
        return {**super().about(), "reference": "onnx fp32"}
