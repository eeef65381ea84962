"""Any ONNX file with one image in and a segmentation out, ours or not: what it takes is read from its graph.

    backend = OnnxFile.open(Path("model.onnx"))
    class_map = backend.class_map(image)        # H x W x 3 uint8 at any size → class ids at the model's size

Inputs may be N x C x H x W or N x H x W x C, uint8 or float. A float input is normalised with the mean and deviation in
the file's metadata, or else with those that the caller names. Outputs may be logits or probabilities (N x C x h x w or
N x h x w x C; resized bilinearly where the grid is coarser), one channel with a threshold, or class ids of any
whole-number type (N x H x W, N x 1 x H x W, N x H x W x 1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.backends.apart import SessionApart
from kdbench.backends.base import Backend
from kdbench.backends.onnx_layout import NOTHING_SAID, Output, Reading, default_threshold, read_output
from kdbench.backends.onnx_metadata import read_metadata
from kdbench.backends.onnx_runtime import open_session
from kdbench.data.normalisation import Input
from kdbench.data.preprocessing import MAX_SIDE, Size, normalise, resize_image
from kdbench.errors import BadInput, KdbenchError, RunFailed
from kdbench.runs.files import require_regular

INPUT_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}
LARGEST = 2 * 2**30
"""Bytes of an ONNX file at most: those of a protobuf message; larger weights lie in files beside it."""
GIT_LFS = b"version https://git-lfs"


class OnnxFile(Backend):
    """A loaded file.

    Attributes:
        about: our metadata entry (``onnx_metadata``), or {} for a file from elsewhere.
        classes: number of classes C of logits; 2 of one channel; None where the file returns class ids.
        assumption: what was assumed about the file, for a person to check; None when nothing was.
        image_input: the input's name.
        channels_last: whether the input is N x H x W x 3.
        dtype: NumPy's type of the input.
        result: the output that is used.
        threshold: of a one-channel output.
    """

    about: dict[str, Any]
    classes: int | None
    assumption: str | None
    image_input: str
    channels_last: bool
    dtype: Any
    result: Output
    threshold: float = 0.0
    _session: Any
    _path: Path

    @classmethod
    def open(
        cls,
        path: Path,
        reading: Reading = NOTHING_SAID,
        *,
        threads: int = 0,
        spinning: bool | None = None,
        limit_s: float | None = None,
        per_answer: bool = False,
    ) -> OnnxFile:
        """Open a file and try it on two images.

        Args:
            reading: what the file does not say itself.
            threads, spinning: see ``onnx_runtime.configure``.
            limit_s: run it in a process of its own, which may take so many seconds in all; None = in this one.
            per_answer: it may take them for each image anew.

        Raises:
            BadInput: no ONNX file, or one that is no segmentation of one image; the message says what is in the way.
            RunFailed: it hangs or crashes in a process of its own.
        """
        check_file(path)
        backend = cls()
        backend._path = path
        if limit_s is None:
            backend._session, details = open_session(path, threads=threads, spinning=spinning)
            metadata = backend._session.get_modelmeta().custom_metadata_map
        else:
            backend._session = SessionApart(
                path, threads=threads, spinning=spinning, limit_s=limit_s, per_answer=per_answer
            )
            metadata, details = backend._session.metadata, backend._session.details
        backend.about = read_metadata(metadata, path) or {}
        backend._read_input(reading.size)
        assumed = backend._read_normalisation(reading)
        assumed += backend._read_output(reading)
        backend.assumption = "; ".join(assumed) or None
        backend.details = {**details, "assumption": backend.assumption}
        return backend

    def _read_input(self, size: Size | None) -> None:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(i.name for i in inputs)
            raise BadInput(f"'{self._path}' has {len(inputs)} inputs ({names}), expected one image")
        entry = inputs[0]
        self.image_input, shape = entry.name, entry.shape
        what = f"'{self._path}': input '{entry.name}' is {entry.type} {shape}"
        if entry.type not in INPUT_TYPES:
            raise BadInput(f"{what}, expected uint8, float or float16")
        self.dtype = INPUT_TYPES[entry.type]
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise BadInput(f"{what}, expected an RGB image, N x 3 x H x W or N x H x W x 3")
        self.channels_last = shape[1] != 3
        if isinstance(shape[0], int) and shape[0] != 1:
            raise BadInput(f"{what}, expected a batch of 1 or an open one: export it again with batch 1")
        height, width = shape[1:3] if self.channels_last else shape[2:4]
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

    def _read_normalisation(self, reading: Reading) -> list[str]:
        """Set ``input``; what was assumed."""
        if self.dtype == np.uint8:
            self.input = Input(space="BGR" if reading.bgr else "RGB")
            return []
        own = self.about.get("normalisation") or {}
        self.input = reading.input(own, f"the metadata of '{self._path.name}': normalisation")
        if reading.normalises or own:
            return []
        return [
            f"'{self._path.name}' takes floats and does not say how images are normalised: ImageNet's mean "
            f"{'/'.join(map(str, self.input.mean))} and deviation {'/'.join(map(str, self.input.std))} of 0..1 "
            f"{self.input.space} are assumed (--mean, --std)"
        ]

    def _read_output(self, reading: Reading) -> list[str]:
        """Run on a black image and on noise, and learn from the results what the file returns; what was assumed."""
        names = [output.name for output in self._session.get_outputs()]
        if reading.output is not None and reading.output not in names:
            raise BadInput(f"--output-name: got '{reading.output}', '{self._path}' returns {', '.join(names)}")
        shape = (*self.size, 3)
        images = [np.zeros(shape, np.uint8), np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)]
        # Every output, so that all of their shapes are known.
        tried = [self._run(self.prepare(image), None if len(names) > 1 else names) for image in images]
        listed = ", ".join(
            f"'{name}' {array.dtype} {list(array.shape)}" for name, array in zip(names, tried[0], strict=True)
        )
        if reading.only_output and reading.output is None and len(names) > 1:
            raise BadInput(f"'{self._path}' has {len(names)} outputs: {listed}: choose one with --output-name")
        name = reading.output or names[0]
        chosen = [arrays[names.index(name)] for arrays in tried]
        self.result = read_output(chosen[0], name, str(self._path), self.size, reading)
        self.output, self.classes = ("logits" if self.result.form == "logits" else "mask"), self.result.classes
        assumed = []
        if reading.output is None and len(names) > 1:
            assumed.append(
                f"'{self._path.name}' has {len(names)} outputs: {listed}: the first, '{name}', is used (--output-name)"
            )
        if self.result.form == "binary":
            self.threshold, why = default_threshold(chosen, ends_in_sigmoid(self._path, name))
            if reading.threshold is None:
                assumed.append(f"'{self._path.name}' has one channel, taken for {why} (--threshold)")
            else:
                self.threshold = reading.threshold
        return assumed

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """From a resized H x W x 3 image to the network's input."""
        if self.dtype == np.uint8:
            batch: NDArray[Any] = image[..., ::-1] if self.input.turns_channels else image
        else:
            batch = normalise(image[None], self.input)[0].transpose(1, 2, 0).astype(self.dtype)
        return np.ascontiguousarray(batch[None] if self.channels_last else batch.transpose(2, 0, 1)[None])

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """1 x H x W uint8 class ids, or 1 x C x H x W float32 logits at the input's size."""
        result = self._run(batch, [self.result.name])[0]
        if self.result.form == "ids":
            result = result.reshape(1, *self.size)
            if result.max(initial=0) > 255 or result.min(initial=0) < 0:
                raise RunFailed(f"'{self._path}': got class ids {result.min()} to {result.max()}, expected 0 to 255")
            return result.astype(np.uint8)
        scores = self._at_input_size(result.astype(np.float32))
        if self.result.form == "logits":
            return scores
        if not np.isfinite(scores).all():
            raise RunFailed(f"'{self._path}' returned NaN or infinite numbers, expected finite ones")
        return (scores[:, 0] > self.threshold).astype(np.uint8)

    def _at_input_size(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output's channels as 1 x C x H x W."""
        if self.result.axis is None:
            scores = scores[:, None]
        elif self.result.axis == 3:
            scores = np.ascontiguousarray(scores.transpose(0, 3, 1, 2))
        if self.result.grid == self.size:
            return scores
        import torch
        import torch.nn.functional as F

        return F.interpolate(torch.from_numpy(scores), size=self.size, mode="bilinear", align_corners=False).numpy()

    def _run(self, batch: NDArray[Any], names: list[str] | None) -> list[NDArray[Any]]:
        try:
            return [np.asarray(result) for result in self._session.run(names, {self.image_input: batch})]
        except KdbenchError:
            raise
        except Exception as error:  # ONNX Runtime's exception classes have no stable names
            raise BadInput(f"'{self._path}' does not run on a {batch.shape} image ({first_line(error)})") from error

    def class_map(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """H x W x 3 uint8 of any size → class ids at the model's size."""
        result = self.infer(self.prepare(resize_image(image, self.size)))[0]
        return result if self.output == "mask" else result.argmax(0).astype(np.uint8)

    def close(self) -> None:
        if isinstance(self._session, SessionApart):
            self._session.close()
        del self._session


def ends_in_sigmoid(path: Path, name: str) -> bool:
    """Whether an output is a sigmoid's, perhaps cast, resized or reshaped behind it."""
    import onnx

    makers = {output: node for node in onnx.load(path, load_external_data=False).graph.node for output in node.output}
    while (node := makers.get(name)) is not None:
        if node.op_type in ("Sigmoid", "HardSigmoid"):
            return True
        if node.op_type not in ("Cast", "Identity", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze"):
            return False
        name = node.input[0]
    return False


def check_file(path: Path) -> None:
    """Find what is wrong with a file that cannot be an ONNX model, before ONNX Runtime's own message does.

    Raises:
        BadInput: it is missing, empty, text, a git-lfs pointer, cut short, or lacks its external data.
    """
    if path.is_dir():
        raise BadInput(f"'{path}' is a folder, expected an .onnx file")
    if not path.is_file():
        raise BadInput(f"'{path}' does not exist, expected an .onnx file: check the path")
    require_regular(path, "copy or export it again", LARGEST)
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
