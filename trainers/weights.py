"""Fill a teacher from weights that exist: a local file, or torchvision's published ones by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kdbench.errors import BadInput
from kdbench.models.efficientnet_lite import EfficientNetLite
from kdbench.models.ensemble import Ensemble
from kdbench.models.segmentation import SegmentationModel
from kdbench.torchvision_compat import torchvision
from trainers.recipe import IMAGENET


def load_weights(model: SegmentationModel, arch: str, source: str) -> bool:
    """Load ``source`` into ``model``.

    Args:
        model: a teacher; a final classifier for another number of classes keeps its fresh initialisation.
        arch: its name, for errors.
        source: a .pth (state dict) or .safetensors file, or a weight name of torchvision's fcn_resnet50,
            for example COCO_WITH_VOC_LABELS_V1, which is downloaded; "imagenet" for the encoder of an
            EfficientNet-Lite, from the package that holds it; for an ensemble one of each member, with commas.

    Returns:
        True when every parameter was filled, so that the teacher can be used without training.

    Raises:
        BadInput: no such file or name, an unreadable file, or one made for another architecture, or, in an ensemble,
            for another number of classes.
    """
    if source == IMAGENET and isinstance(model, EfficientNetLite):
        model.load_imagenet()
        return False
    if isinstance(model, Ensemble):
        _load_members(model, arch.split("+"), source.split(","))
        return True
    given = {k: v for k, v in _read(arch, source).items() if not k.startswith("aux_classifier.")}
    own = model.state_dict()
    wrong_shape = {k for k, v in given.items() if k in own and own[k].shape != v.shape}
    # The classifier's last layer, or last layers, have a row for each class.
    classifier = {k for k in wrong_shape if k.startswith("classifier.") and own[k].shape[1:] == given[k].shape[1:]}
    missing, unknown = own.keys() - given.keys(), given.keys() - own.keys()
    if missing or unknown or wrong_shape - classifier:
        odd = sorted(missing | unknown | (wrong_shape - classifier))
        raise BadInput(
            f"--weights '{source}' do not fit {arch}: {len(missing)} parameters missing, {len(unknown)} unknown, "
            f"{len(wrong_shape - classifier)} of another shape (first: '{odd[0]}'): give weights of a {arch}"
        )
    model.load_state_dict({**own, **{k: v for k, v in given.items() if k not in classifier}})
    return not classifier


def _load_members(model: Ensemble, archs: list[str], sources: list[str]) -> None:
    if len(sources) != len(archs):
        raise BadInput(
            f"--weights: got {len(sources)} file{'s' * (len(sources) > 1)} for {' + '.join(archs)}, expected "
            f"{len(archs)}, one of each in that order, with commas"
        )
    for member, arch, source in zip(model.members, archs, sources, strict=True):
        assert isinstance(member, SegmentationModel)
        if not load_weights(member, arch, source):
            raise BadInput(
                f"--weights '{source}' are for another number of classes than the dataset's, and a member of an "
                f"ensemble is not trained further: give a {arch} that was trained on this dataset"
            )


def _read(arch: str, source: str) -> dict[str, Any]:
    path = Path(source)
    if "," in source and not path.exists():
        raise BadInput(
            f"--weights: got {len(source.split(','))} files for {arch}, expected one: for an ensemble of them join "
            "their architectures in --teacher by +"
        )
    if path.suffix in (".pth", ".pt", ".safetensors"):
        if not path.is_file():
            raise BadInput(f"--weights: '{source}' does not exist")
        try:
            if path.suffix == ".safetensors":
                from safetensors.torch import load_file

                return load_file(path)
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # both readers raise whatever they meet in a broken file
            raise BadInput(f"--weights '{source}' cannot be read as a state dict ({error})") from error
    names = torchvision.models.segmentation.FCN_ResNet50_Weights
    if arch != "fcn_resnet50" or source not in names.__members__:
        raise BadInput(
            f"--weights: got '{source}', expected a .pth or .safetensors file"
            + (f", or one of {', '.join(names.__members__)}" if arch == "fcn_resnet50" else f" for {arch}")
        )
    try:
        return dict(names[source].get_state_dict(progress=True))
    except OSError as error:
        raise BadInput(
            f"--weights {source} cannot be downloaded ({error}): download it elsewhere and give the file's path"
        ) from error
