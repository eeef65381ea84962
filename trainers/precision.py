"""Which precision a training runs in where its recipe says "auto": what this machine is faster in.

bfloat16 halves what a processor with units for it has to move and multiply; without them it is emulated, and a step
takes about twice as long as in float32. So the hardware is asked first, and where it has units a short measurement
decides: bfloat16 must be faster by a margin that noise does not reach, so that the next training decides the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch

from kdbench.data.preprocessing import Size
from kdbench.data.remembered import Remembered
from kdbench.errors import KdbenchError
from kdbench.machine.environment import hardware
from kdbench.models.segmentation import SegmentationModel
from kdbench.runs.files import read_json
from kdbench.runs.folder import RunFolder
from trainers.state_file import read_state

Precision = Literal["fp32", "bf16"]
MARGIN = 1.25
"""How many times as fast bfloat16 must be."""
TRIES, IMAGES = 5, 2
LARGEST = 256
"""Pixels of a side that is measured at most, where the network takes it: what is faster there is faster beyond."""


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies in bfloat16; elsewhere it is emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Intel's and AMD's instructions for it; of Arm's processors PyTorch says nothing that could be relied on.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def faster_precision(
    label: str, make: Callable[[], SegmentationModel], size: Size, device: torch.device, remembered: Remembered
) -> Precision:
    """The precision that this machine runs a network faster in.

    Args:
        label: names the network.
        make: in train mode, forward and backward are timed, else the forward pass alone.
        size: (H, W) of its images.
        remembered: where the answer is kept, for later trainings of the same runs.
    """
    if not has_bf16(device):
        return "fp32"
    what = f"faster precision of {label} at {size} on {device.type}"
    machine = f"{hardware()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    if (what, machine) not in _KNOWN:
        _KNOWN[what, machine] = remembered.get(what, machine, lambda: _measured(make, size, device))
    return _KNOWN[what, machine]


_KNOWN: dict[tuple[str, str], Precision] = {}
"""Answers in this process."""


def _measured(make: Callable[[], SegmentationModel], size: Size, device: torch.device) -> Precision:
    state = torch.get_rng_state()
    model = make().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(IMAGES, 3, *_measured_size(model, size, device), device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    seconds = {precision: _seconds(_a_pass(model, images, precision)) for precision in ("fp32", "bf16")}
    torch.set_rng_state(state)  # that nothing of the training depends on whether this ran
    return "bf16" if seconds["fp32"] > MARGIN * seconds["bf16"] else "fp32"


def _measured_size(model: SegmentationModel, size: Size, device: torch.device) -> Size:
    """``size``, or a smaller one that the network takes as well."""
    smaller = min(size[0], LARGEST), min(size[1], LARGEST)
    if smaller == size:
        return size
    try:
        with torch.no_grad():
            model.taps(torch.zeros(IMAGES, 3, *smaller, device=device))
    except Exception:  # the network's own: it takes multiples of its patch, or one size alone
        return size
    return smaller


def _a_pass(model: SegmentationModel, images: torch.Tensor, precision: str) -> Callable[[], None]:
    def run() -> None:
        with (
            torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"),
            torch.set_grad_enabled(model.training),
        ):
            logits = model.taps(images).logits
        if model.training:
            logits.float().square().mean().backward()
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    return run


def _seconds(call: Callable[[], None]) -> float:
    call()
    taken = []
    for _ in range(TRIES):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)  # what a busy neighbour adds is no property of the precision


def recorded_precisions(students: Iterable[RunFolder], teacher: RunFolder) -> dict[str, Precision]:
    """What interrupted or finished trainings run in, by the recipe's field: whoever goes on with them keeps to it."""
    found: dict[str, Precision] = {}
    both = ("precision", "teacher_precision")
    # "precision" in the teacher's own recipe is the teacher's.
    for folder, fields in [*((student, both) for student in students), (teacher, both[1:])]:
        for recipe in (_of_state(folder), _of_sidecar(folder)):
            for field in fields:
                if recipe.get(field) in ("fp32", "bf16"):
                    found.setdefault(field, recipe[field])
    return found


def _of_state(folder: RunFolder) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(read_state(folder.state, "")["recipe"])
    except Exception:  # none, or a broken one, of which going on with it says what is wrong
        return {}
    return found


def _of_sidecar(folder: RunFolder) -> dict[str, Any]:
    try:
        found = read_json(folder.sidecar, "kdbench train").get("recipe")
    except KdbenchError:
        return {}
    return found if isinstance(found, dict) else {}
