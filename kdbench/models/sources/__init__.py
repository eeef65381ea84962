"""Where networks come from beside ``ARCHITECTURES``: packages that have many, and a person's own Python.

``timm:mobilenetv3_small_100`` is the name "mobilenetv3_small_100" in the source "timm". A source declares itself in a
file of this folder and may return any ``torch.nn.Module`` that takes N x 3 x H x W images.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbench.data.normalisation import IMAGENET, Input
from kdbench.errors import BadInput
from kdbench.kinds import Kind

if TYPE_CHECKING:
    from torch import nn

    from kdbench.models.segmentation import Published

DOWNLOADS = ("hf-hub:", "hf_hub:", "local-dir:", "://")
"""In a name or an argument, these would make a package read weights or code from elsewhere while it builds."""
OF_WEIGHTS = (
    "pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "weights", "weights_backbone",
    "encoder_weights", "cache_dir",
)  # fmt: skip
"""Arguments that load weights, by which some packages would run what is pickled in them."""


@dataclass(frozen=True)
class Source:
    """A kind of name before a colon.

    Attributes:
        build: (name, classes, kwargs) → network with fresh weights: a function, or where it is as "module:function".
        example: a name that it knows, for help and errors.
        package: that must be installed, and that the sidecar gives the version of.
        install: the command for that.
        wanted_input: (name, kwargs) → how the network wants its images; None = as ImageNet's usual statistics say.
        published: (name, kwargs) → weights that exist for it, where the network does not say so itself.
    """

    name: str
    build: Callable[[str, int, dict[str, Any]], nn.Module] | str
    example: str
    package: str
    install: str
    wanted_input: Callable[[str, dict[str, Any]], Input] | str | None = None
    published: Callable[[str, dict[str, Any]], dict[str, Callable[[], Published]]] | str | None = None

    def network(self, name: str, classes: int, kwargs: dict[str, Any]) -> nn.Module:
        """Build the network ``name``.

        Raises:
            BadInput: its package is missing, it does not know the name or an argument, or one would load something.
        """
        if importlib.util.find_spec(self.package) is None:
            raise BadInput(f"{self.name}:{name} needs {self.package}, which is not installed: `{self.install}`")
        refused = [key for key in kwargs if key in OF_WEIGHTS]
        refused += [text for text in (name, *map(str, kwargs.values())) if any(mark in text for mark in DOWNLOADS)]
        if refused:
            raise BadInput(
                f"{self.name}:{name}: got '{refused[0]:.80}', expected a network without weights: they are given by "
                "--student-weights or --teacher-weights"
            )
        try:
            network: nn.Module = imported(self.build)(name, classes, kwargs)
            return network
        except BadInput:
            raise
        except Exception as error:  # the package's own, whatever it is made of
            raise BadInput(
                f"{self.name}:{name} cannot be built ({type(error).__name__}: {' '.join(str(error).split()):.200}): "
                f"give a name and arguments that {self.package} knows, as in {self.name}:{self.example}"
            ) from error

    def input_of(self, name: str, kwargs: dict[str, Any]) -> Input:
        """How the network ``name`` wants its images."""
        if self.wanted_input is None or importlib.util.find_spec(self.package) is None:
            return IMAGENET
        made: Input = imported(self.wanted_input)(name, kwargs)
        return made

    def published_for(self, name: str, kwargs: dict[str, Any]) -> dict[str, Callable[[], Published]]:
        """Weights that exist for the network ``name``; see ``SegmentationModel.published``."""
        if self.published is None:
            return {}
        found: dict[str, Callable[[], Published]] = imported(self.published)(name, kwargs)
        return found

    def versions(self) -> dict[str, str]:
        """{package: version}, for the sidecar."""
        return {self.package: importlib.metadata.version(self.package.replace("_", "-"))}


def imported(function: Callable[..., Any] | str) -> Callable[..., Any]:
    """A function, imported where it is named by its path."""
    if not isinstance(function, str):
        return function
    import kdbench.torchvision_compat  # noqa: F401  before packages that import torchvision

    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


SOURCES = Kind[Source]("source", "--student", ("kdbench.models.sources.declared",))
