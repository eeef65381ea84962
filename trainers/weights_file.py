"""Read somebody's weights: a state dict, or one inside a checkpoint, from a file that nobody has to trust.

What stands in a file is never run: pickles go through ``torch.load(weights_only=True)`` alone, which knows tensors and
plain values, and refuses all else. Its own message tells people how to switch that off, so ours never quotes it.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.errors import BadInput, one_line

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".tar")
"""What files of weights are called. What is in them is told by their first bytes."""
WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "student", "module", "weights",
    "params",
)  # fmt: skip
"""Keys under which trainings save a network, those to prefer first; others that hold tensors come after them."""
AVERAGED = ("ema", "swa", "average", "teacher", "shadow")
"""In the name of a copy that is no training's own result; read when there is nothing else."""
NO_NETWORK = ("optim", "sched", "scaler", "rng")
"""In the name of what a training keeps beside its network."""
SAVE = "save it with torch.save(model.state_dict(), FILE)"


def shown(value: object, limit: int = 80) -> str:
    """Somebody else's text as part of a message: printable, on one line, and not longer than ``limit``."""
    return one_line("".join(c if c.isprintable() else "?" for c in str(value)[: 4 * limit]), limit)


def read_weights(source: str, flag: str) -> dict[str, dict[str, Tensor]]:
    """The state dicts of a file; their values are read when they are used, where the format allows it.

    Args:
        flag: for errors.

    Returns:
        Where it was in a checkpoint, as "model", or "" → name → tensor; first what is likeliest to be meant.

    Raises:
        BadInput: no such file, not a file, or none that holds a state dict.
    """
    named = f"'{shown(source, 400)}'"
    if not os.path.exists(source):
        raise BadInput(f"{flag}: {named} does not exist")
    if not os.path.isfile(source):
        what = "a folder" if os.path.isdir(source) else "a pipe or a device"
        raise BadInput(f"{flag}: {named} is {what}, expected a file of weights")
    try:
        document = _document(Path(source))
    except _Unreadable as error:
        raise BadInput(f"{flag} {named} cannot be read as a state dict ({error})") from error
    except Exception as error:  # the readers raise whatever they meet in a broken file
        why = "it is cut short, damaged, or no file of weights"
        if isinstance(error, OSError) and error.strerror:
            why = shown(error.strerror)
        raise BadInput(f"{flag} {named} cannot be read as a state dict ({why})") from error
    found = dict(_state_dicts(document))
    if not found:
        kind = type(document).__name__
        held = f"{'an' if kind[0] in 'aeiou' else 'a'} {shown(kind)}"
        if isinstance(document, Mapping):
            keys = shown(", ".join(str(key) for key in list(document)[:20]))
            held = f"no tensors by name, but {keys}" if document else "nothing, an empty dict"
        raise BadInput(f"{flag} {named} holds {held}, expected a state dict: {SAVE}")
    most = max(len(tensors) for tensors in found.values())
    worthwhile = [key for key, tensors in found.items() if 4 * len(tensors) >= most]  # not a loss's few beside them
    return {key: found[key] for key in sorted(worthwhile, key=lambda key: _preference(key, len(found[key])))}


class _Unreadable(Exception):
    """Why a file is no state dict, as a person would say it."""


def _document(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise _Unreadable("it is empty")
    if start[8:9] == b"{":
        from safetensors.torch import load_file

        return load_file(path)
    if start.startswith(b"PK"):
        _require_plain_archive(path)
        return _load(path, mmap=True)
    if start.startswith(b"\x80") and start[257:262] != b"ustar":
        return _load(path, mmap=False)
    raise _Unreadable("neither a file of torch.save nor safetensors")


def _load(path: Path, mmap: bool) -> Any:
    try:
        with torch.serialization.safe_globals(list(_ignored())):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise
        raise _Unreadable(
            f"it holds {shown(found[1])}, which is code, and nothing but tensors is read: {SAVE}"
        ) from error


def _require_plain_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    inner = {entry.filename.partition("/")[2] for entry in entries}
    if "constants.pkl" in inner:
        raise _Unreadable(f"it is a TorchScript archive, which is a program: {SAVE}")
    if "data.pkl" not in inner:
        raise _Unreadable("a zip archive, but not one of torch.save")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _Unreadable("its archive was packed again, with compression: give the file as torch.save wrote it")


class _Ignored:
    """Stands for a value beside the tensors that nobody reads. Whatever the file says to do with it does nothing."""

    def __new__(cls, *_: object) -> _Ignored:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _ignored() -> Iterator[tuple[type[_Ignored], str]]:
    """Types of a training's arguments and scores that are common in checkpoints, and that torch would refuse."""
    numpy = ("core.multiarray.scalar", "core.multiarray._reconstruct", "dtype", "ndarray")
    names = [f"numpy.{name}" for name in (*numpy, *(f"_{name}" for name in numpy[:2]))]
    names += [f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath")]
    names += ["argparse.Namespace", "mmengine.logging.history_buffer.HistoryBuffer"]
    return ((_Ignored, name) for name in names)


def _state_dicts(document: object, key: str = "", depth: int = 2) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dict of tensors in a checkpoint, by its key."""
    if not isinstance(document, Mapping):
        return
    tensors = {
        name: value
        for name, value in document.items()
        if isinstance(name, str) and isinstance(value, Tensor) and not value.is_nested
    }
    if tensors:
        yield key, tensors
    for name, value in document.items() if depth else ():
        if isinstance(name, str) and not any(word in name.lower() for word in NO_NETWORK):
            yield from _state_dicts(value, f"{key}.{name}" if key else name, depth - 1)


def _preference(key: str, count: int) -> tuple[bool, int, int]:
    """Sorts what to read first: no average, the best known name, the most tensors."""
    rank = min((WRAPPERS.index(part) for part in key.split(".") if part in WRAPPERS), default=len(WRAPPERS))
    return is_average(key), rank if key else -1, -count


def is_average(name: str) -> bool:
    """Whether a key or prefix names the moving average of a network, or another's copy."""
    return any(word in re.split(r"[._]", name.lower()) for word in AVERAGED)
