"""torchvision's published weights by name, downloaded once and checked against the hash in their file's name."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import BadInput
from kdbench.models.segmentation import Published
from kdbench.runs.files import sha256

IMAGENET = "imagenet"
"""A name that every architecture with an ImageNet encoder knows: the first weights that were published for it."""


def from_torchvision(weights: Any, into: str | None) -> dict[str, Callable[[], Published]]:
    """A WeightsEnum's members by name, and as ``IMAGENET`` the one that torchvision calls IMAGENET1K_V1.

    Args:
        into: the module that they fill, or None for the whole network.
    """
    names = dict(weights.__members__)  # with aliases, as DEFAULT
    if "IMAGENET1K_V1" in names:
        names = {IMAGENET: names["IMAGENET1K_V1"], **names}

    def getter(member: Any) -> Callable[[], Published]:
        return lambda: download(member, into)

    return {name: getter(member) for name, member in names.items()}


def download(member: Any, into: str | None) -> Published:
    """The weights of a WeightsEnum's member, from torch's cache or from where torchvision publishes them.

    Raises:
        OSError: they cannot be downloaded. BadInput: what the cache holds is another file.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(member.url).name
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where results are printed; progress goes to stderr
            state = member.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{path.name}: {error}") from error
    except Exception as error:  # a wrong hash, or whatever torch meets in a broken file
        if not path.exists():
            raise OSError(f"{path.name}: what came is another file") from error
        raise BadInput(f"{member}: '{path}' is damaged: delete it, to download it again") from error
    digest = sha256(path)
    published = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if published and not digest.startswith(published[1]):
        raise BadInput(
            f"{member}: '{path}' is not the file that was published (sha256 {digest[:8]}…, expected {published[1]}…): "
            "delete it, to download it again"
        )
    return Published(state, str(member), digest, into)
