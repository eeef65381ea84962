"""Small ONNX models from elsewhere, as people hand them to kdbench."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, UINT8, INT64, FLOAT16 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64, TensorProto.FLOAT16


def save_model(path, inputs, outputs, nodes, initializers=(), **options):
    """Write a model of the given nodes; inputs and outputs are {name: (type, shape)}."""
    values = [[helper.make_tensor_value_info(n, *about) for n, about in entry.items()] for entry in (inputs, outputs)]
    graph = helper.make_graph(nodes, "model", *values, list(initializers))
    opsets = options.pop("opsets", [helper.make_opsetid("", 17)])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path, **options)
    return path


def classifier(seed=0, classes=4, scale=1.0):
    """A 1 x 1 convolution from RGB to classes: weights of the initializer "w"."""
    weight = np.random.default_rng(seed).normal(size=(classes, 3, 1, 1)).astype(np.float32) * scale
    return numpy_helper.from_array(weight, "w")


def nchw_logits(path, seed=0, classes=4, height=8, width=8, scale=1.0, **options):
    """N x 3 x H x W float → N x C x H x W float logits."""
    return save_model(
        path, {"pixels": (FLOAT, [1, 3, height, width])}, {"scores": (FLOAT, [1, classes, height, width])},
        [helper.make_node("Conv", ["pixels", "w"], ["scores"])], [classifier(seed, classes, scale)], **options,
    )  # fmt: skip


def nhwc_mask(path, seed=0, classes=4, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """N x H x W x 3 uint8 → N x H x W int64: the same network with normalisation and argmax inside."""
    constants = [
        numpy_helper.from_array(np.array(values, np.float32).reshape(1, 3, 1, 1) * 255, name)
        for name, values in (("mean", mean), ("std", std))
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["nchw", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["normal"]),
        helper.make_node("Conv", ["normal", "w"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["ids"], axis=1, keepdims=0),
    ]
    return save_model(
        path,
        {"image": (UINT8, [1, 8, 8, 3])},
        {"ids": (INT64, [1, 8, 8])},
        nodes,
        [classifier(seed, classes), *constants],
    )
