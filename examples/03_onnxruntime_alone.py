"""Run an exported file with ONNX Runtime and Pillow, without kdbench: this is all that a deployment needs.

The file takes a 1 x H x W x 3 uint8 RGB image and returns 1 x H x W uint8 class ids; what these mean stands in it.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

runs = sys.argv[1] if len(sys.argv) > 1 else "runs/examples"
session = onnxruntime.InferenceSession(f"{runs}/shapes/baseline/exports/onnx-fp32/mask.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["kdbench"])
height, width = about["size"]

if len(sys.argv) > 2:
    photo = Image.open(sys.argv[2]).convert("RGB")
else:
    photo = Image.effect_noise((200, 150), 80).convert("RGB")  # no photograph at hand
image = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR))
(mask,) = session.run(None, {session.get_inputs()[0].name: image[None]})

mask = Image.fromarray(mask[0]).resize(photo.size, Image.Resampling.NEAREST)
for count, index in sorted(mask.getcolors(), reverse=True):
    print(f"{about['classes'][index]:12} {count / (photo.width * photo.height):6.1%}")
mask.putpalette([channel for color in about["palette"] for channel in color])
mask.save(f"{runs}/onnxruntime-alone.png")
