"""The architectures by name: what each is for, what it takes, and where its code is.

A declaration names its network as "module:Class", so that offering names on the command line does not wait for torch.
To add one to kdbench, write its file and one line at the end of this one; a plugin declares its own in its file.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kdbench.data.normalisation import IMAGENET, Input
from kdbench.errors import BadInput
from kdbench.kinds import Kind

if TYPE_CHECKING:
    from kdbench.models.segmentation import SegmentationModel

Role = Literal["student", "teacher"]


@dataclass(frozen=True)
class Architecture:
    """A network that kdbench can build.

    Attributes:
        network: number of classes → ``SegmentationModel``: a class or function, or where it is as "module:name".
        roles: what it is meant for; a student may be trained as a member of a teacher in any case.
        input: how its images are normalised.
        multiple_of: height and width of its input must be; 1 = any size.
        needs: packages that it imports beside those of kdbench.
        install: the command that installs them, for errors.
    """

    name: str
    network: Callable[[int], SegmentationModel] | str
    roles: tuple[Role, ...]
    input: Input = IMAGENET
    multiple_of: int = 1
    needs: tuple[str, ...] = ()
    install: str = ""

    def build(self, classes: int) -> SegmentationModel:
        """A freshly initialised network.

        Raises:
            BadInput: a package is missing, or what was built is no ``SegmentationModel``.
        """
        lacking = [package for package in self.needs if importlib.util.find_spec(package) is None]
        if lacking:
            how = self.install or f"pip install {' '.join(lacking)}"
            raise BadInput(f"{self.name} needs {', '.join(lacking)}, which is not installed: `{how}`")
        network = self.network
        if isinstance(network, str):
            module, _, name = network.partition(":")
            network = getattr(importlib.import_module(module), name)
        from kdbench.models.segmentation import LEVELS, SegmentationModel

        model = network(classes)
        if not isinstance(model, SegmentationModel) or set(model.tap_channels) != set(LEVELS):
            raise BadInput(
                f"architecture '{self.name}' builds a {type(model).__name__}, expected a SegmentationModel with "
                f"tap_channels for {', '.join(LEVELS)}: derive it from kdbench.models.segmentation.SegmentationModel"
            )
        model.input = self.input
        return model


ARCHITECTURES = Kind[Architecture]("architecture", "--arch", ("kdbench.models.architectures",))


def students() -> tuple[str, ...]:
    """Architectures that are made to be deployed."""
    return tuple(arch.name for arch in ARCHITECTURES if "student" in arch.roles)


def teachers() -> tuple[str, ...]:
    """Architectures that are made to teach."""
    return tuple(arch.name for arch in ARCHITECTURES if "teacher" in arch.roles)


def members(arch: str) -> list[Architecture]:
    """The architectures that a name stands for: one, or several joined by "+".

    Raises:
        BadInput: there is none of that name, or they take differently normalised images.
    """
    for name in arch.split("+"):
        if name not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES.names())
            raise BadInput(
                f"architecture: got '{arch}', expected one of {known}, or several with +; one from a file "
                "of your own needs --plugin FILE"
            )
    found = [ARCHITECTURES[name] for name in arch.split("+")]
    for other in found[1:]:
        require_same_input(f"architecture '{arch}'", found[0], other)
    return found


def require_same_input(what: str, first: Architecture, second: Architecture) -> None:
    """Raise BadInput where one batch of images cannot serve both."""
    if first.input != second.input:
        raise BadInput(
            f"{what}: {first.name} takes images of mean {first.input.mean} and std {first.input.std}, {second.name} of "
            f"{second.input.mean} and {second.input.std}, expected the same of both, which see the same batches: "
            "choose another pair"
        )


def require_size(arch: str, size: tuple[int, int], flag: str = "--size") -> None:
    """Raise BadInput where an architecture does not take images of H x W = ``size``."""
    for member in members(arch):
        if any(side % member.multiple_of for side in size):
            nearest = "x".join(str(max(1, round(side / member.multiple_of)) * member.multiple_of) for side in size)
            raise BadInput(
                f"{flag}: got {size[0]}x{size[1]}, {member.name} takes multiples of {member.multiple_of}: "
                f"for example {nearest}"
            )


EXTRA = "pip install 'kdbench[pretrained]'"

ARCHITECTURES.add(Architecture("student", "kdbench.models.student:Student", ("student",)))
ARCHITECTURES.add(Architecture("fcn_resnet50", "kdbench.models.teachers:FcnResNet50", ("teacher",)))
ARCHITECTURES.add(Architecture("fpn_resnet18", "kdbench.models.teachers:FpnResNet18", ("teacher",)))
ARCHITECTURES.add(
    Architecture("lraspp_mobilenet_v3_large", "kdbench.models.teachers:LrasppMobileNetV3Large", ("teacher",))
)
ARCHITECTURES.add(
    Architecture(
        "fpn_efficientnet_lite2",
        "kdbench.models.efficientnet_lite:FpnEfficientNetLite2",
        ("teacher",),
        needs=("timm",),
        install=EXTRA,
    )
)
ARCHITECTURES.add(
    Architecture(
        "student_lite0",
        "kdbench.models.efficientnet_lite:StudentLite0",
        ("student",),
        needs=("timm",),
        install=EXTRA,
    )
)
