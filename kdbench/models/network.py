"""Which network: a name, and what a person says of it beside the name.

    student                                              one of ARCHITECTURES
    fpn_resnet18+student                                 the mean of several
    timm:mobilenetv3_small_100                           from a package: one of SOURCES, then a name that it knows
    smp:Unet(encoder_name="resnet18")                    arguments in brackets, as Python writes them
    my_nets.py:fpn   my_package.nets:fpn                 a function of your own

A network is data: it stands in recipes and sidecars, and nothing is imported or built before somebody asks for it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kdbench.data.normalisation import Input
from kdbench.errors import BadInput

LEVELS = ("low", "mid", "high")
"""The taps of feature distillation: stride 4, 8 and 16 in the student."""


class Tap(NamedTuple):
    """A feature map that distillation reads.

    Attributes:
        module: path of the module that returns it.
        stride: the image's side over the map's.
        channels: K.
        layout: how the module returns it: "map" (N x K x h x w), "tokens" (N x h·w x K) or "channels-last".
    """

    module: str
    stride: int
    channels: int
    layout: str = "map"


class Code(NamedTuple):
    """The Python that builds a network.

    Attributes:
        file: as it was named.
        function: in it.
        sha256: of the file, as it was when the network was trained.
    """

    file: str
    function: str
    sha256: str


@dataclass(frozen=True)
class Network:
    """A network to build.

    Attributes:
        arch: its name; see this module's text.
        kwargs: arguments of its function beside the number of classes.
        taps: level → what distillation reads there; a path alone until a pass has shown the rest.
        input: how it wants its images; None = as the name declares.
        code: of a network that a run recorded: the very file that built it.
        packages: of one that a run recorded: name → version that built it.
    """

    arch: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    taps: dict[str, Tap] = field(default_factory=dict)
    input: Input | None = None
    code: Code | None = None
    packages: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def parse(text: str, flag: str) -> Network:
        """Read ``NAME`` or ``NAME(key=value, …)``.

        Args:
            flag: where the text was given, for errors.

        Raises:
            BadInput: brackets that do not hold named literals.
        """
        match = re.fullmatch(r"([^()]+?)\s*(?:\((.*)\))?", text.strip(), re.DOTALL)
        if match is None:
            raise BadInput(f"{flag}: got '{text:.80}', expected a name, or a name with arguments: name(key=1)")
        arch, arguments = match.groups()
        return Network(arch, kwargs=_arguments(arguments, flag) if arguments else {})

    @property
    def label(self) -> str:
        """As a person would write it."""
        told = ", ".join(f"{key}={value!r}" for key, value in self.kwargs.items())
        return f"{self.arch}({told})" if told else self.arch

    def fields(self) -> dict[str, Any]:
        """What a sidecar says: the name, and under "network" what a built-in name does not need."""
        about: dict[str, Any] = {}
        if self.kwargs:
            about["kwargs"] = self.kwargs
        if self.taps:
            about["taps"] = {level: tap._asdict() for level, tap in self.taps.items()}
        if self.code is not None:
            about["code"] = self.code._asdict()
        if self.packages:
            about["packages"] = self.packages
        return {"arch": self.arch, **({"network": about} if about else {})}

    @staticmethod
    def recorded(sidecar: dict[str, Any], item: str = "the sidecar") -> Network:
        """The network that a sidecar describes.

        Raises:
            BadInput: what it says of the network is not what ``fields`` writes.
        """
        about = sidecar.get("network", {})
        try:
            code = about.get("code")
            return Network(
                str(sidecar["arch"]),
                kwargs=dict(about.get("kwargs", {})),
                taps={level: Tap(**tap) for level, tap in about.get("taps", {}).items()},
                input=Input.recorded(sidecar),
                code=None if code is None else Code(**code),
                packages=dict(about.get("packages", {})),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"{item}: 'network' is not what kdbench writes ({error}): train it again") from error


def _arguments(text: str, flag: str) -> dict[str, Any]:
    """Literals alone: a name in a flag or a recipe must not run anything."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("an argument without a name")
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AssertionError, RecursionError, MemoryError) as error:
        raise BadInput(
            f"{flag}: got ({text:.80}) after the name, expected named values, for example (width=32, deep=True)"
        ) from error
