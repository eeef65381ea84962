"""Teachers: torchvision's FCN-ResNet50 for machines with a GPU, and smaller ones for those without.

All are built without auxiliary heads: distillation does not read them. ``trainers.weights`` fills them
from a file or from a torchvision weight name.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from kdbench.models.feature_pyramid import PYRAMID_STAGES, FeaturePyramid
from kdbench.models.published import from_torchvision
from kdbench.models.segmentation import Published, SegmentationModel, Taps, raise_batchnorm_momentum
from kdbench.torchvision_compat import torchvision


class FcnResNet50(SegmentationModel):
    """torchvision's ``fcn_resnet50``: layer3 and layer4 are dilated, so the ``high`` tap sits at stride 8."""

    tap_channels = {"low": 256, "mid": 512, "high": 1024}  # noqa: RUF012
    stages = {  # noqa: RUF012
        "backbone, stride 4": ("backbone.conv1", "backbone.bn1", "backbone.layer1"),
        "backbone, stride 8": ("backbone.layer2",),
        "backbone, layer 3": ("backbone.layer3",),
        "backbone, layer 4": ("backbone.layer4",),
        "classifier": ("classifier",),
    }

    def __init__(self, classes: int) -> None:
        super().__init__()
        net = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=classes)
        self.backbone, self.classifier = net.backbone, net.classifier

    def taps(self, images: Tensor) -> Taps:
        net = self.backbone
        low = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images)))))
        mid = net.layer2(low)
        high = net.layer3(mid)
        return Taps(self.classifier(net.layer4(high)), {"low": low, "mid": mid, "high": high})

    def published(self) -> dict[str, Callable[[], Published]]:
        whole = from_torchvision(torchvision.models.segmentation.FCN_ResNet50_Weights, into=None)
        return {**from_torchvision(torchvision.models.ResNet50_Weights, into="backbone"), **whole}


class FpnResNet18(FeaturePyramid):
    """ResNet-18 with a feature pyramid, trainable on two cores."""

    stages = {  # noqa: RUF012
        "backbone, stride 4": ("stem", "layer1"),
        "backbone, stride 8": ("layer2",),
        "backbone, stride 16": ("layer3",),
        "backbone, stride 32": ("layer4",),
        **PYRAMID_STAGES,
    }

    def __init__(self, classes: int) -> None:
        super().__init__()
        net = torchvision.models.resnet18(weights=None)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        self.add_pyramid((64, 128, 256, 512), 128, classes)

    def taps(self, images: Tensor) -> Taps:
        low = self.layer1(self.stem(images))
        mid = self.layer2(low)
        high = self.layer3(mid)
        return self.pyramid(low, mid, high, self.layer4(high))

    def published(self) -> dict[str, Callable[[], Published]]:
        return from_torchvision(torchvision.models.ResNet18_Weights, into=None)

    def upstream_names(self) -> dict[str, str]:
        stem = {"stem.0.": "conv1.", "stem.1.": "bn1."}
        return {name: stem[name[:7]] + name[7:] for name in self.state_dict() if name[:7] in stem}


class LrasppMobileNetV3Large(SegmentationModel):
    """torchvision's ``lraspp_mobilenet_v3_large`` (Howard et al. 2019), 3.2 M parameters; the last stage is dilated."""

    tap_channels = {"low": 24, "mid": 40, "high": 112}  # noqa: RUF012
    stages = {  # noqa: RUF012
        "backbone, stride 4": tuple(f"backbone.{i}" for i in range(4)),
        "backbone, stride 8": tuple(f"backbone.{i}" for i in range(4, 7)),
        "backbone, stride 16": tuple(f"backbone.{i}" for i in range(7, 13)),
        "backbone, dilated": tuple(f"backbone.{i}" for i in range(13, 17)),
        "classifier": ("classifier",),
    }

    def __init__(self, classes: int) -> None:
        super().__init__()
        net = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=classes
        )
        self.backbone, self.classifier = net.backbone, net.classifier
        raise_batchnorm_momentum(self)

    def taps(self, images: Tensor) -> Taps:
        layers = list(self.backbone.values())
        outputs = []
        x = images
        for layer in layers:
            x = layer(x)
            outputs.append(x)
        # Stride 4 ends at layer 3, stride 8 at 6 (its first layer, 4, feeds the head), stride 16 undilated at 12.
        logits = self.classifier({"low": outputs[4], "high": outputs[-1]})
        return Taps(logits, {"low": outputs[3], "mid": outputs[6], "high": outputs[12]})

    def published(self) -> dict[str, Callable[[], Published]]:
        whole = from_torchvision(torchvision.models.segmentation.LRASPP_MobileNet_V3_Large_Weights, into=None)
        return {**from_torchvision(torchvision.models.MobileNet_V3_Large_Weights, into="backbone"), **whole}
