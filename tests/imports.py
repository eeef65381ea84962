"""What the tests of imports share: painted images whose labels one network gives exactly, and that network as a stranger
would export it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from kdbench.data import Sample, SegmentationDataset
from kdbench.data.normalisation import Input
from kdbench.data.preprocessing import normalise
from tests.onnx_models import FLOAT, FLOAT16, UINT8, save_model

CLASSES = 4
SIZE = (64, 96)
IMAGES = 8


def weights(classes=CLASSES):
    """(C x 3, C) of a 1 x 1 convolution whose classes all occur in every usual reading."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(classes, 3)).astype(np.float32), rng.normal(size=classes).astype(np.float32) * 0.3


def scores(image, wanted, classes=CLASSES):
    """By hand: H x W x 3 uint8 → C x H x W."""
    weight, bias = weights(classes)
    return np.einsum("khw,ck->chw", normalise(image[None], wanted)[0], weight) + bias[:, None, None]


class Painted(SegmentationDataset):
    """Images of coloured blocks; a label is what the network says of the image as ``wanted`` normalises it."""

    name, classes, palette = "painted", ("a", "b", "c", "d"), ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))

    def __init__(self, wanted=None, label=None, split="val"):
        self.split, self.wanted, self.seed = split, wanted or Input(), 0 if split == "val" else 1000
        self.label = label or (lambda image: scores(image, self.wanted).argmax(0))

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        if not 0 <= index < IMAGES:
            raise IndexError(index)
        blocks = np.random.default_rng(self.seed + index).integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 3))
        image = blocks.repeat(8, 0).repeat(8, 1).astype(np.uint8)
        return Sample(f"{index}.png", image, self.label(image).astype(np.uint8))


def write_folder(root, **options):
    """The same as a --dataset folder."""
    for split in ("train", "val"):
        painted = Painted(split=split, **options)
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(IMAGES):
            sample = painted[index]
            Image.fromarray(sample.image).save(root / "images" / split / f"{index}.png")
            Image.fromarray(sample.label).save(root / "masks" / split / f"{index}.png")
    (root / "classes.txt").write_text("\n".join(Painted.classes) + "\n", encoding="utf-8")
    return root


@dataclass
class Stranger:
    """How the network is exported.

    Attributes:
        dtype: of the input.
        baked: the normalisation that the graph itself does, as of a uint8 input; None = none.
        out: "logits", "ids", "ids1" (with a channel), "binary" (class 1's score alone), "probability" (its sigmoid).
        ids: TensorProto type of class ids.
        names: of input and output.
        coarse: logits on half the grid.
        auxiliary: another output, in front.
    """

    dtype: int = FLOAT
    channels_last: bool = False
    baked: Input | None = None
    out: str = "logits"
    out_last: bool = False
    ids: int = TensorProto.INT64
    names: tuple[str, str] = ("pixels", "scores")
    open_size: bool = False
    coarse: bool = False
    auxiliary: bool = False
    opset: int = 17
    domain: str = ""
    bias: bool = True

    def write(self, path, **options):
        nodes, constants, name = [], [], self.names[0]
        kind = FLOAT16 if self.dtype == FLOAT16 else FLOAT

        def add(operator, *more, **attributes):
            nonlocal name
            inputs = [name]
            for index, array in enumerate(more):
                inputs.append(f"c{len(nodes)}_{index}")
                constants.append(numpy_helper.from_array(np.asarray(array), inputs[-1]))
            name = f"t{len(nodes)}"
            nodes.append(helper.make_node(operator, inputs, [name], **attributes))

        numpy_kind = np.float16 if kind == FLOAT16 else np.float32
        if self.dtype == UINT8:
            add("Cast", to=FLOAT)
        if self.channels_last:
            add("Transpose", perm=[0, 3, 1, 2])
        if self.baked is not None:
            if self.baked.turns_channels:
                add("Identity")  # a network that takes BGR as it comes
            scale = np.float32(self.baked.scale)
            add("Sub", np.array(self.baked.mean, np.float32).reshape(1, 3, 1, 1) * scale)
            add("Div", np.array(self.baked.std, np.float32).reshape(1, 3, 1, 1) * scale)
        weight, bias = weights()
        arrays = (weight[:, :, None, None].astype(numpy_kind), bias.astype(numpy_kind))
        add("Conv", *arrays[: 1 + self.bias])
        if self.coarse:
            add("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
        if self.out in ("binary", "probability"):
            add("Gather", np.array([1], np.int64), axis=1)
            if self.out == "probability":
                add("Sigmoid")
        if self.out.startswith("ids"):
            add("ArgMax", axis=1, keepdims=int(self.out == "ids1"))
            add("Cast", to=self.ids)
        if self.out_last:
            add("Transpose", perm=[0, 2, 3, 1])
        nodes[-1].output[0] = self.names[1]
        height, width = ("h", "w") if self.open_size else SIZE
        shape = [1, height, width, 3] if self.channels_last else ["n", 3, height, width]
        rank = 3 if self.out == "ids" else 4
        made = self.ids if self.out.startswith("ids") else kind
        outputs = {self.names[1]: (made, [None] * rank)}
        if self.auxiliary:
            nodes.append(helper.make_node("Neg", [nodes[-1].output[0]], ["aux"]))
            outputs = {"aux": (made, [None] * rank), **outputs}
        opsets = [helper.make_opsetid(self.domain, self.opset)]
        return save_model(
            path, {self.names[0]: (self.dtype, shape)}, outputs, nodes, constants, opsets=opsets, **options
        )
