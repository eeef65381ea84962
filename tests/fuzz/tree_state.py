"""Whether a tree of runs is as no kill may leave it: files lost, half a file under a final name, models that are not
those of their sidecars."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import onnx
from PIL import Image
from safetensors.numpy import load_file

from kdbench.backends.exported import read_export
from kdbench.errors import KdbenchError
from kdbench.runs.beside import MARK
from kdbench.runs.files import RECORDED, SEAL, parse_json, read_json, sha256
from kdbench.runs.folder import RunFolder, sidecar_path
from trainers.state_file import read_state

MAY_GO = ("state.pt",)
"""Removed at a training's end, which is what its absence says."""
OF_LIBRARIES = (".ses", "torchinductor_*")
"""In TMPDIR, one each however often: the telemetry of ONNX Runtime 1.32 and the compiler's cache of PyTorch."""
LEFT = f".*{MARK}*"


def hashes(root: Path) -> dict[str, str]:
    """Every file of a tree that is in its place → hash; logs that are appended to, locks and temporary ones are not."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "tensorboard"]
        for name in names:
            if not name.startswith("."):
                path = Path(folder) / name
                found[path.relative_to(root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def lost(before: dict[str, str], now: dict[str, str]) -> list[str]:
    return [name for name in before if name not in now and Path(name).name not in MAY_GO]


def unreadable(root: Path, before: dict[str, str], now: dict[str, str]) -> list[str]:
    """What is neither as it was, byte by byte, nor whole."""
    problems = []
    for name, digest in now.items():
        if before.get(name) != digest:
            try:
                WHOLE[Path(name).suffix](root / name)
            except Exception as error:  # whatever a reader raises of half a file
                problems.append(f"{name}: {type(error).__name__}: {error}"[:300])
    return problems


def _json(path: Path) -> None:
    document = parse_json(path.read_text(encoding="utf-8"))
    if SEAL in document:
        read_json(path, "", RECORDED)


def _lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text or text.endswith("\n"), "half a line"
    for line in text.splitlines():
        json.loads(line)


def _image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _text(path: Path) -> None:
    text = path.read_text(encoding="utf-8").rstrip()
    assert text, "empty"
    assert path.suffix != ".html" or text.endswith("</html>"), "half a page"


WHOLE: dict[str, Callable[[Path], object]] = {
    ".json": _json,
    ".jsonl": _lines,
    ".safetensors": load_file,
    ".pt": lambda path: read_state(path, ""),
    ".onnx": lambda path: onnx.checker.check_model(onnx.load(path)),
    ".png": _image,
    **dict.fromkeys((".html", ".md", ".txt", ".csv", ".toml"), _text),
}
"""What reads a whole file of a suffix, and raises of half a one."""


def apart(root: Path) -> tuple[list[str], list[str]]:
    """Models whose sidecar is another's, as a kill between their two replaces leaves; those that a reader takes."""
    found, trusted = [], []
    for path in sorted([*root.rglob("[!.]*.safetensors"), *root.rglob("[!.]*.onnx")]):
        if any(MARK in part for part in path.relative_to(root).parts):
            continue
        sidecar = sidecar_path(path)
        if sidecar.exists() and json.loads(sidecar.read_text())["sha256"] == sha256(path):
            continue
        found.append(path.relative_to(root).as_posix())
        if _is_taken(path):
            trusted.append(found[-1])
    return found, trusted


def _is_taken(path: Path) -> bool:
    try:
        if path.suffix == ".onnx":
            read_export(path, "onnx", None)
            return True
        folder = RunFolder.of(path)
        sidecar = folder.finished("kdbench train")
        return sidecar is not None and folder.is_whole(sidecar)
    except KdbenchError:
        return False


def temporaries(root: Path) -> list[str]:
    """What writers left in a tree."""
    return [path.relative_to(root).as_posix() for path in root.rglob(LEFT)]


def left_in_tmp(tmp: Path) -> list[str]:
    return sorted(path.name for path in tmp.iterdir() if not any(path.match(known) for known in OF_LIBRARIES))
