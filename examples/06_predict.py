"""Segment images of your own: class maps in memory, or mask and overlay files in a folder."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import kdbench

runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/examples")
model = runs / "shapes" / "baseline" / "exports" / "onnx-fp32" / "mask.onnx"
photo = runs / "photo.png"
Image.fromarray(kdbench.open_dataset("shapes", "val")[3].image).resize((320, 200)).save(photo)

with kdbench.open_predictor(model) as predictor:
    class_map = predictor.class_map(np.asarray(Image.open(photo)))  # H x W class ids at the photograph's own size
    print(class_map.shape, [predictor.classes[index] for index in np.unique(class_map)])

done = kdbench.predict_images(model, [photo], runs / "predictions")
for image, mask, overlay in done.written:
    print(f"{image.name}: {mask.name}, {overlay.name}")
