"""A trained network written so that ``torch.compile`` makes few GPU kernels of it.

At batch 1 a small network on a large GPU waits for its kernels to start, not for memory or arithmetic. Convolutions
stay library calls that nothing is fused into, so everything else should be elementwise code between them, which the
compiler joins: BatchNorm goes into its convolution, and what is cheap enough to be elementwise becomes so. That are the
depthwise convolutions (k x k shifted maps, each times a weight per channel), the first convolution (3 input channels),
and the two products of a squeeze-and-excitation block. The sums are in float32, as the library's are.

    module = torch.compile(MaskModel(fused(model).half()), fullgraph=True)

Eager PyTorch runs this form slower than the original: it is for compiling alone.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdbench.models.segmentation import SegmentationModel
from kdbench.torchvision_compat import torchvision

FEW_CHANNELS = 4
"""Input channels of a dense convolution up to which it is written as shifted maps."""
ALIGNED = 8
"""Half-precision values in 16 bytes."""


def fused(model: SegmentationModel, *, products: bool = False) -> SegmentationModel:
    """A copy of ``model``, in eval mode and float32 on the CPU, that computes the same with fewer kernels.

    Args:
        model: trained, in float32. Turn the result to half precision, not this: BatchNorm is folded in float32.
        products: write every dense convolution as a matrix product over channels-last memory: libraries start those
            faster than convolutions, and large batches of narrow maps run faster as well.
    """
    found = folded(model)
    for name, module in list(found.named_modules()):
        if isinstance(module, torchvision.ops.SqueezeExcitation):
            found.set_submodule(name, Excitation(module))
    for name, module in list(found.named_modules()):
        if not isinstance(module, nn.Conv2d):
            continue
        if products and module.groups == 1 and (module.padding_mode, module.dilation) == ("zeros", (1, 1)):
            found.set_submodule(name, Product(module))
        elif is_shiftable(module):
            found.set_submodule(name, ShiftedSum(module))
    return found


def folded(model: SegmentationModel) -> SegmentationModel:
    """A copy of ``model`` in eval mode whose BatchNorms are part of its convolutions, and which is else the same."""
    found = copy.deepcopy(model).eval()
    fold_batchnorms(found)
    return found


def fold_batchnorms(model: SegmentationModel) -> None:
    """Fold every BatchNorm into the convolution whose output it reads, in place; an activation inside it stays.

    Which one that is shows in a pass on the meta device: modules are written in any order and called in another.
    """
    shapes = copy.deepcopy(model).to("meta")
    made_by: dict[int, tuple[str, Tensor]] = {}  # id of a convolution's output → its name; the tensor keeps the id
    pairs: list[tuple[str, str]] = []
    for name, module in shapes.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output, name=name: made_by.update({id(output): (name, output)}))
        elif isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: pairs.append((made_by[id(inputs[0])][0], name))
                if id(inputs[0]) in made_by else None
            )  # fmt: skip
    with torch.no_grad():
        shapes.logits(torch.empty(1, 3, 64, 64, device="meta"))
    for convolution, norm in pairs:
        before, after = model.get_submodule(convolution), model.get_submodule(norm)
        assert isinstance(before, nn.Conv2d)
        assert isinstance(after, nn.BatchNorm2d)
        rest = beyond_normalising(after)
        if rest is not None:
            model.set_submodule(convolution, fuse_conv_bn_eval(before, after))
            model.set_submodule(norm, rest)


def beyond_normalising(norm: nn.BatchNorm2d) -> nn.Module | None:
    """What a BatchNorm does to its result: nothing, or timm's ``BatchNormAct2d`` its activation; None = unknown."""
    if type(norm).forward is nn.BatchNorm2d.forward:
        return nn.Identity()
    parts = [getattr(norm, name, None) for name in ("drop", "act")]  # in the order in which timm calls them
    if not all(isinstance(part, nn.Module) for part in parts):
        return None
    kept = [part for part in parts if isinstance(part, nn.Module) and not isinstance(part, nn.Identity)]
    return nn.Sequential(*kept) if len(kept) > 1 else kept[0] if kept else nn.Identity()


def is_shiftable(convolution: nn.Conv2d) -> bool:
    """Whether a convolution is depthwise, or has few input channels, and is larger than 1 x 1."""
    depthwise = convolution.groups == convolution.in_channels == convolution.out_channels
    few = convolution.groups == 1 and convolution.in_channels <= FEW_CHANNELS
    return (depthwise or few) and convolution.kernel_size != (1, 1) and convolution.padding_mode == "zeros"


class ShiftedSum(nn.Module):
    """A depthwise convolution, or one with few input channels, as a sum of shifted maps times weights.

    Args:
        convolution: one that ``is_shiftable``; any kernel, stride, padding and dilation.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.dilation = convolution.stride, convolution.dilation
        self.kernel_size, self.padding = convolution.kernel_size, convolution.padding
        self.inputs = 1 if convolution.groups > 1 else convolution.in_channels  # that an output channel reads
        weight = convolution.weight.detach()  # outputs x inputs x rows x columns
        self.weight = nn.Parameter(weight.permute(1, 2, 3, 0).contiguous(), requires_grad=False)
        bias = torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias.detach()
        self.bias = nn.Parameter(bias.view(-1, 1, 1).clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.kernel_size
        (down, right), (row_step, column_step) = self.stride, self.dilation
        vertical, horizontal = (int(p) for p in self.padding)
        height = (x.shape[2] + 2 * vertical - row_step * (rows - 1) - 1) // down + 1
        width = (x.shape[3] + 2 * horizontal - column_step * (columns - 1) - 1) // right + 1
        padded = F.pad(x, (horizontal, horizontal, vertical, vertical))
        total = self.bias.float()
        for row in range(rows):
            for column in range(columns):
                top, left = row * row_step, column * column_step
                window = padded[
                    :, :, top : top + (height - 1) * down + 1 : down, left : left + (width - 1) * right + 1 : right
                ]
                for channel in range(self.inputs):
                    read = window if self.inputs == 1 else window[:, channel : channel + 1]
                    total = total + read.float() * self.weight[channel, row, column].float()[:, None, None]
        return total.to(x.dtype)


class Excitation(nn.Module):
    """torchvision's squeeze-and-excitation with its two 1 x 1 convolutions of 1 x 1 maps as sums of products."""

    def __init__(self, block: torchvision.ops.SqueezeExcitation) -> None:
        super().__init__()
        self.activation, self.scale_activation = block.activation, block.scale_activation
        self.first, self.second = (nn.Linear(fc.in_channels, fc.out_channels) for fc in (block.fc1, block.fc2))
        for linear, convolution in ((self.first, block.fc1), (self.second, block.fc2)):
            linear.weight = nn.Parameter(convolution.weight.detach().flatten(1), requires_grad=False)
            linear.bias = nn.Parameter(convolution.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), dtype=torch.float32)
        hidden = self.activation(summed_product(squeezed, self.first))
        scale = self.scale_activation(summed_product(hidden, self.second))
        return x * scale[:, :, None, None].to(x.dtype)


def summed_product(x: Tensor, linear: nn.Linear) -> Tensor:
    """N x inputs float32 → N x outputs float32, written as a product and a sum, which the compiler joins with both
    neighbours where it would call a library for a matrix product."""
    return (x[:, None, :] * linear.weight.float()).sum(2) + linear.bias.float()


class Product(nn.Module):
    """A dense convolution as a matrix product over channels-last memory; a kernel's places are gathered as columns.

    Args:
        convolution: any kernel, stride and padding by zeros, not dilated.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.kernel_size, self.padding = convolution.stride, convolution.kernel_size, convolution.padding
        weight = convolution.weight.detach().permute(0, 2, 3, 1).flatten(1)  # outputs x (places x inputs)
        # Libraries are slow where a row does not begin at a multiple of 16 bytes.
        self.filler = -weight.shape[1] % ALIGNED if self.kernel_size != (1, 1) else 0
        self.weight = nn.Parameter(F.pad(weight, (0, self.filler)).contiguous(), requires_grad=False)
        bias = convolution.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        (rows, columns), (down, right) = self.kernel_size, self.stride
        vertical, horizontal = (int(p) for p in self.padding)
        if self.kernel_size == (1, 1) and self.stride == (1, 1):
            read = x.permute(0, 2, 3, 1)
        else:
            padded = F.pad(x, (horizontal, horizontal, vertical, vertical))
            places = padded.unfold(2, rows, down).unfold(3, columns, right)  # N x C x H' x W' x rows x columns
            read = F.pad(places.permute(0, 2, 3, 4, 5, 1).flatten(3), (0, self.filler))
        return F.linear(read, self.weight, self.bias).permute(0, 3, 1, 2)
