"""The form of a network that is made for compiling: the same numbers, no BatchNorm, no depthwise convolution."""

from __future__ import annotations

import copy
import functools
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from kdbench.data.shapes import Shapes
from kdbench.models.architectures import ARCHITECTURES
from kdbench.models.deployed import MaskModel
from kdbench.models.fused import Excitation, Product, ShiftedSum, fold_batchnorms, fused
from kdbench.models.registry import build_model
from kdbench.torchvision_compat import torchvision


def with_statistics(arch):
    """A network whose BatchNorms have statistics of their own: weights, biases, means and variances all matter."""
    return copy.deepcopy(made_with_statistics(arch))


@functools.cache
def made_with_statistics(arch):
    torch.manual_seed(0)
    model = build_model(arch, 7)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.8, 1.2), (module.bias, -0.1, 0.1), (module.running_mean, -0.1, 0.1),
            ):  # fmt: skip
                tensor.data.uniform_(low, high, generator=generator)
    scenes = Shapes("train")
    images = torch.from_numpy(np.stack([scenes[i].image for i in range(4)])).permute(0, 3, 1, 2) / 64.0 - 2
    with torch.no_grad():
        for _ in range(5):
            model.train()(images)
    return model.eval()


def picture(size, count=1):
    """Blocks of colour with noise: N x H x W x 3 uint8."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(count, 3, 6, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=size, mode="bilinear")
    noisy = smooth + 0.05 * torch.rand(smooth.shape, generator=generator)
    return (255 * noisy.clamp(0, 1)).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("products", [False, True], ids=["convolutions", "products"])
@pytest.mark.parametrize(
    ("arch", "size"),
    [
        *(("student", size) for size in ((64, 64), (96, 128), (360, 480))),
        *((arch, (96, 128)) for arch in (*ARCHITECTURES.names()[1:], "student+fpn_resnet18")),
    ],
    ids=str,
)
def test_same_logits_and_masks(arch, size, products):
    model = with_statistics(arch)
    other = fused(model, products=products)
    image = picture(size)
    with torch.inference_mode():
        x = image.permute(0, 3, 1, 2) / 128.0 - 1
        expected, got = model(x), other(x)
        masks, other_masks = MaskModel(model)(image), MaskModel(other)(image)
    assert float((got - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert float((other_masks == masks).float().mean()) >= 0.9999
    assert len(masks.unique()) > 1


@pytest.mark.parametrize("arch", ARCHITECTURES.names())
def test_nothing_is_left_unfused(arch):
    model = build_model(arch, 7).eval()
    other = fused(model, products=True)
    for module in other.modules():
        assert not isinstance(module, nn.BatchNorm2d | torchvision.ops.SqueezeExcitation)
        if isinstance(module, nn.Conv2d):
            assert module.groups == 1
            assert module.kernel_size != (1, 1) or module.stride != (1, 1)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()), "the original is left alone"
    assert any(isinstance(module, Product) for module in other.modules())


def test_a_batchnorm_that_follows_no_convolution_stays():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.after, self.convolution, self.before = nn.BatchNorm2d(4), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(3)

        def logits(self, x):
            return self.after(self.convolution(self.before(x)))

    model = Odd().eval()
    fold_batchnorms(model)
    assert isinstance(model.before, nn.BatchNorm2d)
    assert isinstance(model.after, nn.Identity)


class Activated(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: what follows the normalisation is inside."""

    def __init__(self, drop, act):
        super().__init__(4)
        self.drop, self.act = drop, act

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Doubled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("norm", "left"),
    [
        (Activated(nn.Identity(), nn.ReLU6()), nn.ReLU6),
        (Activated(nn.Identity(), nn.Identity()), nn.Identity),
        (Activated(nn.Dropout(0.5), nn.ReLU()), nn.Sequential),
        (Doubled(4), Doubled),
    ],
    ids=["activation", "nothing", "dropout", "unknown"],
)
def test_what_a_batchnorm_does_beyond_normalising_stays(norm, left):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 1), norm

        def logits(self, x):
            return self.norm(self.convolution(x))

    torch.manual_seed(0)
    nn.init.uniform_(norm.running_mean, -1, 1)
    nn.init.uniform_(norm.bias, -1, 1)
    model = Pair().eval()
    x = torch.randn(1, 3, 8, 8)
    expected = model.logits(x)
    fold_batchnorms(model)
    assert type(model.norm) is left
    torch.testing.assert_close(model.logits(x), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (3, 1, 2), (5, 2, 3)]
)
@pytest.mark.parametrize(("channels", "groups"), [((6, 6), 6), ((3, 8), 1)], ids=["depthwise", "three inputs"])
def test_shifted_sum_is_the_convolution(kernel, stride, dilation, channels, groups):
    torch.manual_seed(0)
    padding = (dilation * (kernel // 2), kernel // 2)
    convolution = nn.Conv2d(*channels, kernel, stride, padding, dilation, groups).double()
    x = torch.randn(2, channels[0], 25, 32, dtype=torch.float64)
    torch.testing.assert_close(
        ShiftedSum(convolution.float())(x.float()), convolution.float()(x.float()), rtol=1e-5, atol=1e-6
    )


def test_half_precision_sums_in_float32():
    """1024 + 8 x 0.5: each half is lost in float16, where 1024's neighbours are 1 apart."""
    convolution = nn.Conv2d(1, 1, 3, padding=1, groups=1, bias=False)
    convolution.weight.data.fill_(0.5)
    convolution.weight.data[0, 0, 0, 0] = 1024
    total = ShiftedSum(convolution).half()(torch.ones(1, 1, 3, 3, dtype=torch.float16))
    assert float(total[0, 0, 1, 1]) == 1028


def test_excitation_is_the_block():
    torch.manual_seed(0)
    block = torchvision.ops.SqueezeExcitation(16, 8, scale_activation=nn.Hardsigmoid)
    x = torch.randn(3, 16, 5, 7)
    torch.testing.assert_close(Excitation(block)(x), block(x))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("products", [False, True], ids=["convolutions", "products"])
def test_compiled_in_one_graph(products):
    model = with_statistics("student")
    module = MaskModel(fused(model, products=products).to(memory_format=torch.channels_last))
    image = picture((64, 96), 2)
    with torch.inference_mode():
        got = torch.compile(module, fullgraph=True, dynamic=False)(image)
        expected = MaskModel(model)(image)
    assert float((got == expected).float().mean()) >= 0.9999
