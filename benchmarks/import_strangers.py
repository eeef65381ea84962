"""Networks of other libraries as ONNX files, as their users export them: for the benchmarks of ``kdbench import``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.data.base import SegmentationDataset
from kdbench.data.normalisation import IMAGENET, MEAN, STD, Input
from kdbench.data.preprocessing import Size
from kdbench.torchvision_compat import torchvision  # before smp and transformers, which import it by themselves
from trainers.batches import TrainingBatches
from trainers.images import TrainingImages
from trainers.recipe import Recipe

STATISTICS = 16
"""Batches that BatchNorm's statistics are of."""
HALF = Input((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PIXELS_BGR = Input((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), 255, "BGR")


@dataclass(frozen=True)
class Stranger:
    """A network and the file that is made of it.

    Attributes:
        network: (classes) → a module from normalised images to what the library returns.
        wanted: how it is trained to see images.
        outputs: of the library's result, those that the file returns.
        names: of the file's outputs; a trained network is shared by ``network`` and ``wanted``.
        form: "logits", "probability" (one channel), "ids" (argmax), "baked" (uint8 N x H x W x 3 → N x H x W x C).
        open_size: leave height and width open.
        flags: what ``kdbench import`` must be told.
    """

    network: Callable[[int], nn.Module]
    wanted: Input = IMAGENET
    outputs: Callable[[Any], tuple[Tensor, ...]] = lambda result: (result["out"],)
    names: tuple[str, ...] = ("out",)
    form: str = "logits"
    open_size: bool = False
    flags: tuple[str, ...] = ()

    @property
    def binary(self) -> bool:
        return self.form == "probability"

    def wanted_flags(self) -> list[str]:
        """What says how a float input is normalised."""
        mean, std = (",".join(map(str, values)) for values in (self.wanted.mean, self.wanted.std))
        space = "--bgr" if self.wanted.turns_channels else "--rgb"
        return ["--mean", mean, "--std", std, "--range", str(self.wanted.range), space]


def lraspp(classes: int) -> nn.Module:
    network: nn.Module = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=classes
    )
    return network


def deeplab(classes: int) -> nn.Module:
    network: nn.Module = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=classes, aux_loss=True
    )
    return network


def unet(classes: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    network: nn.Module = smp.Unet("timm-mobilenetv3_small_100", encoder_weights=None, classes=classes)
    return network


def segformer(classes: int) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    network: nn.Module = SegformerForSemanticSegmentation(SegformerConfig(num_labels=classes))  # type: ignore[call-arg]
    return network


STRANGERS = {
    "lraspp": Stranger(lraspp),
    "deeplab-auxiliary": Stranger(
        deeplab, outputs=lambda result: (result["aux"], result["out"]), names=("aux", "out"),
        flags=("--output-name", "out"),
    ),
    "unet": Stranger(unet, PIXELS_BGR, outputs=lambda result: (result,), flags=(
        "--mean", "0,0,0", "--std", "255,255,255", "--range", "255", "--bgr")),
    "unet-binary": Stranger(lambda classes: unet(1), outputs=lambda result: (result,), form="probability"),
    "segformer-b0": Stranger(segformer, HALF, outputs=lambda result: (result.logits,)),
    "uint8-nhwc": Stranger(lraspp, form="baked", flags=("--rgb",)),
    "argmax-open": Stranger(lraspp, form="ids", open_size=True),
}  # fmt: skip
"""Name → what is imported. Those without flags for their normalisation leave it to be found."""


def build(stranger: Stranger, classes: int) -> nn.Module:
    torch.manual_seed(0)
    return stranger.network(classes).eval()


def train(stranger: Stranger, network: nn.Module, split: SegmentationDataset, size: Size, steps: int) -> None:
    """A few steps of cross-entropy on kdbench's own batches: enough for masks of several classes."""
    recipe = Recipe.model_validate(
        {"size": size, "batch_size": 4, "scale_min": 0.7, "scale_max": 1.5, "jitter": 0.2, "class_weights": True}
    )
    batches = TrainingBatches(TrainingImages(split, size, None, torch.device("cpu")), recipe, wanted=stranger.wanted)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    network.train()
    done = 0
    while done < steps:
        for batch in batches.epoch(done):
            scores = stranger.outputs(network(batch.images))[-1]
            scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
            if stranger.binary:
                known = batch.labels != 255
                loss = F.binary_cross_entropy_with_logits(scores[:, 0][known], batch.labels[known].float())
            else:
                loss = F.cross_entropy(scores, batch.labels, weight=batches.class_weights, ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done == steps:
                break
    # After few steps BatchNorm's running statistics still hold much of their start.
    seen = (batch.images for _, batch in zip(range(STATISTICS), batches.epoch(done), strict=False))
    torch.optim.swa_utils.update_bn(seen, network)
    network.eval()


class Deployed(nn.Module):
    """The network with what its user puts into the file."""

    mean: Tensor
    std: Tensor

    def __init__(self, stranger: Stranger, network: nn.Module) -> None:
        super().__init__()
        self.stranger, self.network = stranger, network
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        form = self.stranger.form
        if form == "baked":
            image = (image.float().permute(0, 3, 1, 2) - self.mean) / self.std
        results = self.stranger.outputs(self.network(image))
        if form == "probability":
            return tuple(result.sigmoid() for result in results)
        if form == "ids":
            return tuple(result.argmax(1) for result in results)
        if form == "baked":
            return tuple(result.permute(0, 2, 3, 1) for result in results)
        return results


def write_file(stranger: Stranger, network: nn.Module, path: Path, size: Size) -> None:
    """torch.onnx.export, with names for the outputs and little else."""
    baked = stranger.form == "baked"
    example = torch.zeros((1, *size, 3), dtype=torch.uint8) if baked else torch.zeros(1, 3, *size)
    dim = torch.export.Dim
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Deployed(stranger, network).eval(), (example,), path, dynamo=True, input_names=["image"],
            output_names=list(stranger.names), external_data=False, verbose=False,
            dynamic_shapes=({2: dim("height"), 3: dim("width")},) if stranger.open_size else None,
        )  # fmt: skip
