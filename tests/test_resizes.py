"""Each Resize of an exported graph is the one that PyTorch was asked for, whichever that is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from torch import nn

from exporters.resizes import check_resizes, resize_calls
from kdbench.errors import RunFailed

ATTRIBUTES = ("mode", "coordinate_transformation_mode", "nearest_mode")
RIGHT = {
    "bilinear": ("linear", "half_pixel"),
    "bilinear with align_corners": ("linear", "align_corners"),
    "bicubic": ("cubic", "half_pixel"),
    "bicubic with align_corners": ("cubic", "align_corners"),
    "nearest": ("nearest", "asymmetric", "floor"),
    "nearest-exact": ("nearest", "half_pixel", "round_prefer_ceil"),
}


def graph(*resizes, **more):
    """A chain of Resize nodes, named as torch.onnx does."""
    nodes = [
        helper.make_node(
            "Resize", [f"x{i}", "", "s"], [f"x{i + 1}"], name=f"node_call_{i}",
            **dict(zip(ATTRIBUTES, values, strict=False)), **more,
        )
        for i, values in enumerate(resizes)
    ]  # fmt: skip
    return helper.make_graph(nodes, "g", [], [])


def calls(*asked):
    return {f"call_{i}": call for i, call in enumerate(asked)}


@pytest.mark.parametrize("asked", RIGHT)
def test_the_faithful_lowering_of_each_call_passes_and_every_other_is_refused(asked):
    check_resizes(graph(RIGHT[asked]), calls(asked))
    for other, lowering in RIGHT.items():
        if other != asked:
            expected = " with ".join(RIGHT[asked][:2])
            message = f"got a {lowering[0]} Resize with .*{lowering[1]}.* coordinates, expected {expected}, .*{asked}"
            with pytest.raises(RunFailed, match=message):
                check_resizes(graph(lowering), calls(asked))


@pytest.mark.parametrize(
    ("asked", "lowering", "more"),
    [
        ("bilinear", ("linear", "asymmetric"), {}),
        ("nearest", ("nearest", "asymmetric", "round_prefer_floor"), {}),
        ("nearest", ("nearest", "half_pixel", "floor"), {}),
        ("bilinear", ("linear", "half_pixel"), {"antialias": 1}),
        ("bicubic", ("cubic", "half_pixel"), {"cubic_coeff_a": -0.5}),
        ("bilinear with antialias", ("linear", "half_pixel"), {"antialias": 1}),
    ],
)
def test_what_comes_close_is_refused_too(asked, lowering, more):
    with pytest.raises(RunFailed, match="node_call_0': got a "):
        check_resizes(graph(lowering, **more), calls(asked))


def test_each_node_is_held_against_its_own_call():
    both = ("bilinear", "nearest")
    check_resizes(graph(*(RIGHT[call] for call in both)), calls(*both))
    with pytest.raises(RunFailed, match="node_call_0': got a nearest Resize"):
        check_resizes(graph(*(RIGHT[call] for call in reversed(both))), calls(*both))


def test_a_node_without_a_call_must_do_what_a_call_without_a_node_asks_for():
    renamed = graph(RIGHT["bilinear"], RIGHT["nearest"])
    renamed.node[1].name = "fused"
    check_resizes(renamed, calls("bilinear", "nearest", "bicubic"))  # the third is a constant by now
    with pytest.raises(RunFailed, match="'fused': got a nearest .*, expected cubic with half_pixel, "):
        check_resizes(renamed, calls("bilinear", "bicubic"))
    with pytest.raises(RunFailed, match="'fused': .* expected none, .*no resizing there"):
        check_resizes(renamed, calls("bilinear"))


class Resized(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.options = options

    def forward(self, x):
        return F.interpolate(x, size=(9, 13), **self.options)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"mode": "nearest"}, "nearest"),
        ({"mode": "bilinear"}, "bilinear"),
        ({"mode": "bilinear", "align_corners": True}, "bilinear with align_corners"),
        ({"mode": "bicubic", "align_corners": True}, "bicubic with align_corners"),
        ({"mode": "bilinear", "antialias": True}, "bilinear with antialias"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_traced_program_calls(options, asked):
    program = torch.onnx.export(Resized(options).eval(), (torch.zeros(1, 2, 6, 8),), dynamo=True, verbose=False)
    found, exported = resize_calls(program.exported_program), program.model_proto.graph
    assert list(found.values()) == [asked]
    assert [node.op_type for node in exported.node] == ["Resize"]
    if "antialias" in asked:
        with pytest.raises(RunFailed, match="PyTorch calls for bilinear with antialias"):
            check_resizes(exported, found)
    else:
        check_resizes(exported, found)
