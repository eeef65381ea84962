"""Networks that choose a class for two rows and columns at once: `student_fast` and `student_lite0_fast`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from exporters.mask_logits import logit_difference
from exporters.proven_export import export_as
from kdbench.backends import load_backend
from kdbench.models.deployed import MaskModel
from kdbench.models.registry import build_model
from kdbench.models.segmentation import repeat_pixels
from kdbench.runs.tree import RunTree, sidecar_path
from kdbench.torchvision_compat import torchvision
from tests.conditions import ENGINE_BUILDER
from tests.exports import make_job, make_student


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = RunTree(tmp_path_factory.mktemp("fast"), "shapes")
    make_student(tree, "baseline", 0, "student_fast")
    return tree


def image(height=64, width=96):
    return torch.randint(0, 256, (2, height, width, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_repeated_pixels_by_value():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert repeat_pixels(maps, 2)[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert repeat_pixels(maps, 1) is maps


@pytest.mark.parametrize("elementwise", [False, True])
def test_the_mask_is_the_argmax_at_half_size(elementwise):
    torch.manual_seed(0)
    model = build_model("student_fast", 7).eval()
    mask = MaskModel(model, elementwise)
    with torch.inference_mode():
        x = (image().float().permute(0, 3, 1, 2) - mask.mean) / mask.std
        half = F.interpolate(model.logits(x), size=(32, 48), mode="bilinear", align_corners=False)
        expected = half.argmax(1).repeat_interleave(2, 1).repeat_interleave(2, 2)
        assert torch.equal(mask(image()), expected.to(torch.uint8))
        assert torch.equal(model(x), half.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert len(expected.unique()) > 2


def test_every_other_student_chooses_for_each_pixel():
    assert build_model("student", 7).mask_stride == 1
    assert build_model("fpn_resnet18", 7).mask_stride == 1


def test_the_fast_student_is_the_student_with_plain_operators():
    fast, student = build_model("student_fast", 7), build_model("student", 7)
    kinds = {type(module) for module in fast.modules()}
    assert nn.Hardswish not in kinds
    assert torchvision.ops.SqueezeExcitation not in kinds
    assert {k: v.shape for k, v in fast.state_dict().items()} == {
        k: v.shape for k, v in student.state_dict().items() if ".fc1." not in k and ".fc2." not in k
    }


@pytest.mark.needs("timm")
def test_student_lite0_fast_takes_the_weights_of_student_lite0():
    pytest.importorskip("timm")
    torch.manual_seed(0)
    plain, fast = build_model("student_lite0", 5).eval(), build_model("student_lite0_fast", 5).eval()
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(fast.logits(x), plain.logits(x))
        assert not torch.equal(fast(x), plain(x))


@pytest.mark.needs("openvino", ENGINE_BUILDER)
@pytest.mark.parametrize("name", ["onnx", "openvino", "trt"])
def test_its_exports_are_the_same_model(tree, name):
    with make_job(tree) as job:
        export_as(job, "onnx", "fp32")
        path = export_as(job, name, "fp32")
    parity = json.loads(sidecar_path(path).read_text()).get("parity")
    if name == "trt":
        assert path.stat().st_size > 1e6
        return
    assert parity["pixel_agreement"] > 0.9999
    if name == "onnx":
        assert parity["max_logit_difference"] < 1e-3 * parity["logit_range"]


def test_logits_inside_are_compared_at_half_size(tree):
    with make_job(tree) as job:
        found = logit_difference(job, job.graph())
    assert found is not None
    difference, reach = found
    assert 0 <= difference < 1e-3 < reach


@pytest.mark.parametrize(
    ("name", "strides"), [("torch", (3072, 1024, 32, 1)), ("torch-channels-last", (3072, 1, 96, 3))]
)
def test_pytorch_runs_it_in_the_memory_that_its_row_names(tree, name, strides):
    backend = load_backend(name, tree.checkpoint("baseline"), output="mask", size=(32, 32), threads=1)
    seen = []
    backend._module.model.encoder[0][0].register_forward_hook(lambda _, inputs, out: seen.append(inputs[0].stride()))
    backend.infer(np.zeros((1, 32, 32, 3), np.uint8))
    assert seen == [strides]


def test_an_odd_side_is_refused_by_name(kdbench, tmp_path):
    done = kdbench("train", "--method", "baseline", "--student", "student_fast", "--dataset", "shapes", "--size", "65x96",
                   "--runs", tmp_path)  # fmt: skip
    assert done.code != 0
    assert "student_fast takes multiples of 2: for example 64x96" in done.err
