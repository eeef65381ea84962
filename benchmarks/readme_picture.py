"""Draw docs/images/predictions.png: images, their labels, and what trained models make of them, side by side.

python -m benchmarks.readme_picture RUNS --methods baseline,response --images 0,1

RUNS is a folder that ``kdbench train`` wrote; the images are of the validation split that it was trained with, by their
numbers. Labels and predictions are drawn in the dataset's colours, so that they can be compared at a glance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import kdbench
from kdbench.cli.options import open_trained_dataset
from kdbench.data.base import Color, Sample
from kdbench.data.labels import IGNORE
from kdbench.methods.base import title_of
from kdbench.predict.overlay import with_legend
from kdbench.runs.tree import RunTree

OUTPUT = Path("docs/images/predictions.png")
WIDTH, TITLE, GAP = 240, 28, 8
"""Pixels: of a column, above it, and between two."""


def colours(label: NDArray[np.uint8], palette: Sequence[Color]) -> NDArray[np.uint8]:
    """H x W class ids → H x W x 3; ignored pixels are white."""
    table = np.full((256, 3), 255, dtype=np.uint8)
    table[: len(palette)] = palette
    table[IGNORE] = 255
    return table[label]


def picture(
    samples: Sequence[Sample], predictions: dict[str, list[NDArray[np.uint8]]], palette: Sequence[Color]
) -> Image.Image:
    """A row for each image; a column for itself, its label, and each model.

    Args:
        predictions: title → a class map for each image.
        palette: a colour per class id.
    """
    columns = {
        "image": [sample.image for sample in samples],
        "label": [colours(sample.label, palette) for sample in samples],
        **{title: [colours(found, palette) for found in maps] for title, maps in predictions.items()},
    }
    height = round(WIDTH * samples[0].image.shape[0] / samples[0].image.shape[1])
    size = (len(columns) * (WIDTH + GAP) + GAP, TITLE + len(samples) * (height + GAP))
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for column, (title, pictures) in enumerate(columns.items()):
        left = GAP + column * (WIDTH + GAP)
        draw.text((left + WIDTH / 2, TITLE / 2), title, fill="black", font=font, anchor="mm")
        for row, drawn in enumerate(pictures):
            cell = Image.fromarray(drawn).resize((WIDTH, height), Image.Resampling.NEAREST)
            canvas.paste(cell, (left, TITLE + row * (height + GAP)))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--dataset", help="default: the one trained last")
    parser.add_argument("--methods", default="baseline", help="several with commas")
    parser.add_argument("--images", default="0,1", help="numbers in the validation split")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    tree = RunTree.find(arguments.runs, arguments.dataset)
    dataset = open_trained_dataset(tree, None, methods[0])
    samples = [dataset[int(number)] for number in arguments.images.split(",")]
    predictions = {}
    for method in methods:
        with kdbench.open_predictor(tree.checkpoint(method)) as predictor:
            predictions[title_of(method)] = [predictor.class_map(sample.image) for sample in samples]
    drawn = picture(samples, predictions, dataset.palette)
    present = np.unique(np.concatenate([sample.label.ravel() for sample in samples]))
    legend = {int(index): dataset.classes[index] for index in present if index != IGNORE}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(with_legend(np.asarray(drawn), legend, dataset.palette)).save(arguments.output, optimize=True)
    print(f"{arguments.output}, {arguments.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
