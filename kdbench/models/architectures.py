"""The architectures by name: what each is for, what it takes, and where its code is.

A declaration names its network as "module:Class", so that offering names on the command line does not wait for torch.
To add one to kdbench, write its file and one line at the end of this one; a plugin declares its own in its file.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from kdbench.data.normalisation import IMAGENET, Input
from kdbench.errors import BadInput
from kdbench.kinds import Kind
from kdbench.models.network import Network, Tap

if TYPE_CHECKING:
    from torch import nn

    from kdbench.models.segmentation import Published, SegmentationModel

Role = Literal["student", "teacher"]
BOTH: tuple[Role, ...] = ("student", "teacher")


@dataclass(frozen=True)
class Architecture:
    """A network that kdbench can build.

    Attributes:
        network: number of classes → ``SegmentationModel``, or any module that ``ForeignModel`` can wrap: a class or
            function, or where it is as "module:name".
        roles: what it is meant for; a student may be trained as a member of a teacher in any case.
        input: how its images are normalised.
        multiple_of: height and width of its input must be; 1 = any size.
        needs: packages that it imports beside those of kdbench.
        install: the command that installs them, for errors.
        taps: of a module that is no ``SegmentationModel``: where distillation reads it.
        weights: of such a module: those that exist for it by name.
    """

    name: str
    network: Callable[[int], nn.Module] | str
    roles: tuple[Role, ...]
    input: Input = IMAGENET
    multiple_of: int = 1
    needs: tuple[str, ...] = ()
    install: str = ""
    taps: dict[str, Tap] = field(default_factory=dict)
    weights: Callable[[], dict[str, Callable[[], Published]]] = dict

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
        from torch import nn

        from kdbench.models.foreign import ForeignModel
        from kdbench.models.segmentation import LEVELS, SegmentationModel

        model = network(classes)
        if not isinstance(model, nn.Module) or (
            isinstance(model, SegmentationModel) and not set(model.tap_channels) <= set(LEVELS)
        ):
            raise BadInput(
                f"architecture '{self.name}' builds a {type(model).__name__}, expected a torch.nn.Module, or a "
                f"SegmentationModel with tap_channels for any of {', '.join(LEVELS)}"
            )
        if not isinstance(model, SegmentationModel):
            model = ForeignModel(model, classes, self.taps, self.name)
            model.weights = self.weights
        model.input = self.input
        return model


ARCHITECTURES = Kind[Architecture]("architecture", "--arch", ("kdbench.models.architectures",))


def students() -> tuple[str, ...]:
    """Architectures that are made to be deployed."""
    return tuple(arch.name for arch in ARCHITECTURES if "student" in arch.roles)


def teachers() -> tuple[str, ...]:
    """Architectures that are made to teach."""
    return tuple(arch.name for arch in ARCHITECTURES if "teacher" in arch.roles)


def members(network: Network | str) -> list[Architecture]:
    """The architectures that a name stands for: one, or several built-in ones joined by "+".

    Raises:
        BadInput: there is none of that name, or they take differently normalised images.
        Missing: there is no file of that name.
    """
    network = Network(network) if isinstance(network, str) else network
    if ":" in network.arch:
        return [_foreign(network)]
    if network.kwargs or network.taps:
        raise BadInput(f"architecture '{network.label}': a built-in network takes no arguments and no taps")
    names = network.arch.split("+")
    for name in names:
        if name not in ARCHITECTURES:
            raise BadInput(f"architecture: got '{network.arch:.80}', expected {expected()}")
    found = [ARCHITECTURES[name] for name in names]
    if network.input is not None:
        found = [replace(one, input=network.input) for one in found]
    for other in found[1:]:
        if found[0].input != other.input:
            raise BadInput(
                f"architecture '{network.arch}': {found[0].name} takes images of mean {found[0].input.mean} and std "
                f"{found[0].input.std}, {other.name} of {other.input.mean} and {other.input.std}, expected the same of "
                "all members, which see the same batches: choose another pair"
            )
    return found


def expected() -> str:
    """What a network may be called, for errors."""
    from kdbench.models.sources import SOURCES

    examples = ", ".join(f"{source.name}:{source.example}" for source in SOURCES)
    return (
        f"one of {', '.join(ARCHITECTURES.names())}, or several with +; a package's, as {examples}; or a function of "
        "your own, as my_nets.py:fpn (or an architecture that --plugin FILE declares)"
    )


def _foreign(network: Network) -> Architecture:
    from kdbench.models import code
    from kdbench.models.sources import SOURCES

    prefix, _, name = network.arch.partition(":")
    kwargs = dict(network.kwargs)
    made: Callable[[int], nn.Module]
    if prefix in SOURCES:
        source = SOURCES[prefix]
        wanted = network.input or source.input_of(name, kwargs)
        made = partial(source.network, name, kwargs=kwargs)
        weights = partial(source.published_for, name, kwargs)
        return Architecture(network.label, made, BOTH, wanted, taps=network.taps, weights=weights)
    if code.names_code(network.arch):
        made = partial(code.build, network.arch, kwargs=kwargs, recorded=network.code)
        return Architecture(network.label, made, BOTH, network.input or IMAGENET, taps=network.taps)
    raise BadInput(f"network: got '{network.arch:.80}', expected {expected()}")


def require_size(network: Network | str, size: tuple[int, int], flag: str = "--size") -> None:
    """Raise BadInput where an architecture says that it does not take images of H x W = ``size``."""
    for member in members(network):
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
ARCHITECTURES.add(Architecture("student_fast", "kdbench.models.student_fast:StudentFast", ("student",), multiple_of=2))
ARCHITECTURES.add(
    Architecture(
        "student_lite0_fast",
        "kdbench.models.efficientnet_lite:StudentLite0Fast",
        ("student",),
        multiple_of=2,
        needs=("timm",),
        install=EXTRA,
    )
)
