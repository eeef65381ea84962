"""Building a network, trying it before anything depends on it, and loading a trained one from its checkpoint."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdbench.errors import BadInput, KdbenchError
from kdbench.models import code
from kdbench.models.architectures import members, require_size
from kdbench.models.ensemble import Ensemble
from kdbench.models.foreign import ForeignModel
from kdbench.models.network import Network
from kdbench.models.segmentation import LEVELS, SegmentationModel
from kdbench.models.sources import SOURCES
from kdbench.models.tracing import chosen_taps, trace
from kdbench.runs.checkpoints import load_checkpoint

SLOW_SECONDS = 5
"""A network that takes longer to build is named meanwhile."""
MULTIPLES = (8, 16, 32, 64)
"""Of which networks want height and width."""


def build_model(network: Network | str, classes: int) -> SegmentationModel:
    """A freshly initialised model; its weights depend on torch's global seed.

    Args:
        network: what ``Network`` describes, or a name alone; several joined by "+" are built as their ``Ensemble``.
    """
    built = [(member.name, member.build(classes)) for member in members(network)]
    return Ensemble(built) if len(built) > 1 else built[0][1]


def tried(network: Network, classes: int, size: tuple[int, int], who: str) -> Network:
    """A network after a pass without computing: what is not built in knows its taps, code and packages then.

    Args:
        size: (H, W) of the images that it will see.
        who: "student" or "teacher", for errors.

    Raises:
        BadInput: there is no such network, it cannot be built, does not take images of that size, or returns no logits.
    """
    require_size(network, size)
    if ":" not in network.arch:
        return network
    prefix = network.arch.partition(":")[0]
    origin = {"packages": SOURCES[prefix].versions()} if prefix in SOURCES else {"code": code.code_of(network.arch)}
    with said_when_slow(f"building {who} '{network.label}'"):
        model = cheaply_built(network, classes)
    taps = {}
    try:
        if isinstance(model, ForeignModel):
            name = network.label
            found = trace(model.net, classes, size, name)
            taps = chosen_taps(model.net, network.taps, classes, size, name) if network.taps else found
        else:
            with torch.no_grad():
                model(torch.zeros(1, 3, *size, device=next(model.parameters()).device))
    except KdbenchError:
        raise
    except Exception as error:  # the network's own
        better = _size_that_works(model, size)
        advice = f"try --size {better[0]}x{better[1]}" if better else "try another --size"
        raise BadInput(
            f"{who} '{network.label}' does not take images of {size[0]}x{size[1]} "
            f"({type(error).__name__}: {' '.join(str(error).split()):.200}): {advice}"
        ) from error
    return replace(network, taps=taps, **origin)


def cheaply_built(network: Network, classes: int) -> SegmentationModel:
    """Without weights, where the network can be built so."""
    try:
        with torch.device("meta"):
            return build_model(network, classes)
    except BadInput as error:
        if error.__cause__ is None:  # a name or an argument, not something that the meta device cannot do
            raise
    before = torch.random.get_rng_state()
    try:
        return build_model(network, classes)
    finally:
        torch.random.set_rng_state(before)


def _size_that_works(model: SegmentationModel, size: tuple[int, int]) -> tuple[int, int] | None:
    device = next(model.parameters()).device
    for multiple in MULTIPLES:
        near = (max(1, round(size[0] / multiple)) * multiple, max(1, round(size[1] / multiple)) * multiple)
        try:
            with torch.no_grad():
                model(torch.zeros(1, 3, *near, device=device))
        except Exception:
            continue
        return near
    return None


@contextmanager
def said_when_slow(what: str) -> Iterator[None]:
    """Say what is going on where it takes long."""
    timer = threading.Timer(SLOW_SECONDS, lambda: print(f"kdbench: {what} …", file=sys.stderr))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def shared_levels(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> tuple[str, ...]:
    """The levels that both have."""
    return tuple(level for level in LEVELS if level in student and level in teacher)


def load_model(checkpoint: Path, made_by: str) -> tuple[SegmentationModel, dict[str, Any]]:
    """Read a trained model, in eval mode on the CPU, and its sidecar.

    Args:
        checkpoint: a .safetensors file that ``kdbench train`` wrote.
        made_by: the command that makes it, for errors.

    Raises:
        BadInput: a broken checkpoint, or a network whose code nobody agreed to run; see ``kdbench.models.code``.
    """
    state, sidecar = load_checkpoint(checkpoint, made_by)
    network = Network.recorded(sidecar, f"the sidecar of '{checkpoint}'")
    model = build_model(network, len(sidecar["classes"]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(
            f"checkpoint '{checkpoint}' does not fit the architecture {network.label} of this kdbench"
            f"{_other_versions(network)}: make it again with `{made_by}`"
        ) from error
    return model.eval(), sidecar


def _other_versions(network: Network) -> str:
    prefix = network.arch.partition(":")[0]
    now = SOURCES[prefix].versions() if network.packages and prefix in SOURCES else {}
    changed = [f"{name} {then} → {now[name]}" for name, then in network.packages.items() if now.get(name, then) != then]
    return f" ({', '.join(changed)} since)" if changed else ""


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Attention as matrix products, which can be counted: fused kernels are one operator with all of them inside."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def count_gflops(network: Network | str, classes: int, size: tuple[int, int]) -> float:
    """Floating-point operations of one image in 10⁹, counted by torch's FlopCounterMode (a multiply-add counts two)."""
    from torch.utils.flop_counter import FlopCounterMode

    network = Network(network) if isinstance(network, str) else network
    model = cheaply_built(network, classes).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), unfused_attention():
        model(torch.empty(1, 3, *size, device=next(model.parameters()).device))
    return counter.get_total_flops() / 1e9
