"""Any ONNX file with one image in and a segmentation out, ours or not: what it takes is read from its graph.

    backend = OnnxFile.open(Path("model.onnx"))
    class_map = backend.class_map(image)        # H x W x 3 uint8 at any size → class ids at the model's size

Inputs may be N x C x H x W or N x H x W x C, uint8 or float. A float input is normalised with the mean and deviation in
the file's metadata, or else with those that the caller names. Outputs may be logits (N x C x h x w; resized
bilinearly where the grid is coarser) or class ids (N x H x W, N x 1 x H x W).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.backends.base import Backend
from kdbench.backends.onnx_metadata import read_metadata
from kdbench.backends.onnx_runtime import open_session
from kdbench.data.normalisation import MEAN, STD, Input
from kdbench.data.preprocessing import MAX_SIDE, Size, normalise, resize_image
from kdbench.errors import BadInput, RunFailed

INPUT_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}
GIT_LFS = b"version https://git-lfs"


class OnnxFile(Backend):
    """A loaded file.

    Attributes:
        about: our metadata entry (``onnx_metadata``), or {} for a file from elsewhere.
        classes: number of classes C of logits; None where the file returns class ids.
        assumption: what was assumed about normalisation, for a person to check; None when nothing was.
    """

    about: dict[str, Any]
    classes: int | None
    assumption: str | None
    _session: Any
    _path: Path
    _input: str
    _dtype: Any
    _channels_last: bool

    @classmethod
    def load(cls, artifact: Path, *, output: str, size: Size | None, device: str, threads: int) -> OnnxFile:
        return cls.open(artifact, size=size, threads=threads)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        size: Size | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        threads: int = 0,
        spinning: bool = True,
    ) -> OnnxFile:
        """Open a file and try it on a black image.

        Args:
            size: (H, W) for a graph that leaves them open.
            mean, std: of a float input's channels, for RGB in 0..1; None = the file's own, else ImageNet's.
            threads, spinning: see ``onnx_runtime.configure``.

        Raises:
            BadInput: no ONNX file, or one that is no segmentation of one image; the message says what is in the way.
        """
        check_file(path)
        session, details = open_session(path, threads=threads, spinning=spinning)
        backend = cls()
        backend._session, backend._path = session, path
        backend.about = read_metadata(session.get_modelmeta().custom_metadata_map, path) or {}
        backend._read_input(size)
        backend.assumption = None
        if backend._dtype != np.uint8:
            own = backend.about.get("normalisation", {})
            told = {"mean": mean, "std": std}
            given = {**own, **{key: list(values) for key, values in told.items() if values}}
            backend.input = Input.read(given, f"the metadata of '{path.name}': normalisation")
            if not mean and not own:
                backend.assumption = (
                    f"'{path.name}' takes floats and does not say how images are normalised: ImageNet's mean "
                    f"{'/'.join(map(str, MEAN))} and deviation {'/'.join(map(str, STD))} of 0..1 RGB are assumed "
                    "(--mean, --std)"
                )
        backend._try()
        backend.details = {**details, "assumption": backend.assumption}
        return backend

    def _read_input(self, size: Size | None) -> None:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(i.name for i in inputs)
            raise BadInput(f"'{self._path}' has {len(inputs)} inputs ({names}), expected one image")
        entry = inputs[0]
        self._input, shape = entry.name, entry.shape
        what = f"'{self._path}': input '{entry.name}' is {entry.type} {shape}"
        if entry.type not in INPUT_TYPES:
            raise BadInput(f"{what}, expected uint8, float or float16")
        self._dtype = INPUT_TYPES[entry.type]
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise BadInput(f"{what}, expected an RGB image, N x 3 x H x W or N x H x W x 3")
        self._channels_last = shape[1] != 3
        if isinstance(shape[0], int) and shape[0] != 1:
            raise BadInput(f"{what}, expected a batch of 1 or an open one: export it again with batch 1")
        height, width = shape[1:3] if self._channels_last else shape[2:4]
        if isinstance(height, int) and isinstance(width, int):
            if max(height, width) > MAX_SIDE:
                raise BadInput(f"{what}, expected at most {MAX_SIDE} pixels a side")
            if size is not None and size != (height, width):
                raise BadInput(f"{what}, --size {size[0]}x{size[1]} was asked for: leave --size out")
            self.size = (height, width)
        elif size is not None:
            self.size = size
        else:
            raise BadInput(f"{what}, whose height and width are open: give --size HEIGHTxWIDTH")

    def _try(self) -> None:
        """Run once and learn from the result what the file returns."""
        height, width = self.size
        result = self._run(self.prepare(np.zeros((height, width, 3), np.uint8)))
        name = self._session.get_outputs()[0].name
        what = f"'{self._path}': output '{name}' is {result.dtype} {list(result.shape)}"
        integer = np.issubdtype(result.dtype, np.integer)
        if integer and (result.ndim == 3 or (result.ndim == 4 and result.shape[1] == 1)):
            if result.shape[-2:] != self.size:
                raise BadInput(f"{what}, expected class ids at the input's size {height}x{width}")
            self.output, self.classes = "mask", None
        elif not integer and result.ndim == 4 and result.shape[1] > 1 and result.shape[2] * result.shape[3] > 1:
            self.output, self.classes = "logits", result.shape[1]
        else:
            raise BadInput(
                f"{what}, expected logits N x C x h x w with at least 2 classes, or whole-number class ids N x H x W: "
                "this is no segmentation that kdbench can compare"
            )

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """From a resized H x W x 3 image to the network's input."""
        if self._dtype == np.uint8:
            batch: NDArray[Any] = image
        else:
            batch = normalise(image[None], self.input)[0].transpose(1, 2, 0).astype(self._dtype)
        return np.ascontiguousarray(batch[None] if self._channels_last else batch.transpose(2, 0, 1)[None])

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """1 x H x W uint8 class ids, or 1 x C x H x W float32 logits at the input's size."""
        result = self._run(batch)
        if self.output == "mask":
            result = result.reshape(1, *self.size)
            if result.max(initial=0) > 255 or result.min(initial=0) < 0:
                raise RunFailed(f"'{self._path}': got class ids {result.min()} to {result.max()}, expected 0 to 255")
            return result.astype(np.uint8)
        logits = result.astype(np.float32)
        if logits.shape[2:] == self.size:
            return logits
        import torch
        import torch.nn.functional as F

        return F.interpolate(torch.from_numpy(logits), size=self.size, mode="bilinear", align_corners=False).numpy()

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        try:
            return np.asarray(self._session.run(None, {self._input: batch})[0])
        except Exception as error:  # ONNX Runtime's exception classes have no stable names
            raise BadInput(f"'{self._path}' does not run on a {batch.shape} image ({first_line(error)})") from error

    def class_map(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """H x W x 3 uint8 of any size → class ids at the model's size."""
        result = self.infer(self.prepare(resize_image(image, self.size)))[0]
        return result if self.output == "mask" else result.argmax(0).astype(np.uint8)

    def close(self) -> None:
        del self._session


def check_file(path: Path) -> None:
    """Find what is wrong with a file that cannot be an ONNX model, before ONNX Runtime's own message does.

    Raises:
        BadInput: it is missing, empty, text, a git-lfs pointer, cut short, or lacks its external data.
    """
    if path.is_dir():
        raise BadInput(f"'{path}' is a folder, expected an .onnx file")
    if not path.is_file():
        raise BadInput(f"'{path}' does not exist, expected an .onnx file: check the path")
    with open(path, "rb") as file:
        head = file.read(64)
    if not head:
        raise BadInput(f"'{path}' is empty, expected an ONNX model: copy or export it again")
    if head.startswith(GIT_LFS):
        raise BadInput(f"'{path}' is a git-lfs pointer, expected the ONNX model itself: run `git lfs pull`")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model)
    except DecodeError as error:
        raise BadInput(
            f"'{path}' cannot be decoded as an ONNX model: it was cut short or is another kind of file: "
            "copy or export it again"
        ) from error
    except onnx.checker.ValidationError as error:
        if not model.graph.node:
            raise BadInput(f"'{path}' holds no graph: it was cut short or is another kind of file") from error
        lines = [f"'{name}', which is missing" for name in external_files(model) if not (path.parent / name).exists()]
        if lines:
            raise BadInput(f"'{path}' keeps its weights in {lines[0]}: put it into the same folder") from error
        # Operators of other domains are ONNX Runtime's to judge.
    for name in external_files(model):
        if not (path.parent / name).exists():
            raise BadInput(f"'{path}' keeps its weights in '{name}', which is missing: put it into the same folder")


def external_files(model: Any) -> list[str]:
    """Names of the files that a model keeps tensors in."""
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})


def first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
