"""Validation images with their label and every method's prediction, those first on which methods disagree most."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdbench.backends import load_backend, reference_of
from kdbench.comparison.metrics import confusion_matrix, mean_iou
from kdbench.data import SegmentationDataset
from kdbench.data.base import Color
from kdbench.data.labels import IGNORE
from kdbench.data.preprocessing import resize_image, resize_label
from kdbench.methods.base import method_in
from kdbench.predict.overlay import blend, palette_image
from kdbench.progress import progress_bar
from kdbench.runs.tree import RunTree

WIDEST = 480
"""Pixels of a picture's longer side in the page."""
VOID, RIGHT, WRONG = (128, 128, 128), (0, 60, 40), (255, 80, 80)
"""Colours of an error map."""


@dataclass(frozen=True)
class Picture:
    """One validation image as data URIs.

    Attributes:
        disagreement: share of pixels to which the methods do not all give the same class.
        overlays, predictions, errors: method → picture.
        miou: method → mIoU of this image alone; empty where no pixel of it has a label.
    """

    name: str
    disagreement: float
    image: str
    label: str
    overlays: dict[str, str]
    predictions: dict[str, str]
    errors: dict[str, str]
    miou: dict[str, float]


def make_gallery(tree: RunTree, methods: tuple[str, ...], dataset: SegmentationDataset, count: int) -> list[Picture]:
    """Run every method or imported file over the split and keep the ``count`` images of most disagreement.

    Args:
        methods: runs: methods, those of variants as "variant/method".

    Raises:
        KdbenchError: a checkpoint or an image is broken.
    """
    class_maps: dict[str, list[NDArray[np.uint8]]] = {}
    with progress_bar("gallery", len(methods) * len(dataset)) as bar:
        for method in methods:
            own = tree.of_variant(method.rpartition("/")[0] or None)
            backend = load_backend(*reference_of(own, method_in(method)), output="mask")
            class_maps[method] = []
            for index in range(len(dataset)):
                sample = dataset[index]
                prediction = backend.infer(backend.prepare(resize_image(sample.image, backend.size)))[0]
                height, width = sample.label.shape  # methods of several variants may have inputs of several sizes
                class_maps[method].append(resize_label(prediction, (height, width)))
                bar.advance(1, method)
            backend.close()
    disagreement = [
        float(np.mean(np.ptp(np.stack([class_maps[method][index] for method in methods]), axis=0) > 0))
        for index in range(len(dataset))
    ]
    order = sorted(range(len(dataset)), key=lambda index: -disagreement[index])[:count]
    return [
        _picture(dataset, index, {method: class_maps[method][index] for method in methods}, disagreement[index])
        for index in order
    ]


def _picture(
    dataset: SegmentationDataset, index: int, predicted: dict[str, NDArray[np.uint8]], disagreement: float
) -> Picture:
    sample = dataset[index]
    classes = len(dataset.classes)
    miou = {method: mean_iou(confusion_matrix(sample.label, values, classes)) for method, values in predicted.items()}
    return Picture(
        name=Path(sample.name).name,
        disagreement=disagreement,
        image=_uri(Image.fromarray(sample.image), "JPEG"),
        label=_uri(_label_image(sample.label, dataset.palette), "PNG"),
        overlays={
            method: _uri(Image.fromarray(blend(sample.image, values, _colours(dataset.palette))), "JPEG")
            for method, values in predicted.items()
        },
        predictions={
            method: _uri(palette_image(values, dataset.palette), "PNG") for method, values in predicted.items()
        },
        errors={method: _uri(error_map(sample.label, values), "PNG") for method, values in predicted.items()},
        miou={method: value for method, value in miou.items() if not math.isnan(value)},
    )


def _label_image(label: NDArray[np.uint8], palette: tuple[Color, ...]) -> Image.Image:
    """As ``palette_image``, with void in grey."""
    return palette_image(label, _colours(palette))


def _colours(palette: tuple[Color, ...]) -> list[Color]:
    """256 colours: the classes', then black, and grey for void."""
    colors = [*palette, *[(0, 0, 0)] * (256 - len(palette))]
    colors[IGNORE] = VOID
    return colors


def error_map(label: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> Image.Image:
    """H x W: dark where prediction and label agree, bright where they do not, grey where there is no label."""
    states = np.where(label == IGNORE, 0, np.where(label == prediction, 1, 2)).astype(np.uint8)
    return palette_image(states, (VOID, RIGHT, WRONG))


def _uri(picture: Image.Image, kind: str) -> str:
    """A picture as a data URI, no larger than the page shows it; class colours are never blended."""
    scale = min(1.0, WIDEST / max(picture.size))
    if scale < 1:
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.NEAREST if kind == "PNG" else Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 80} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
