"""Where everything lies below ``runs/``: a folder for each dataset, in it one for each method."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kdbench.errors import Missing
from kdbench.methods.base import METHODS

BACKENDS = ("torch", "torch-channels-last", "torch-compile", "onnx", "openvino", "trt")
USUAL_BACKENDS = ("torch", "onnx", "openvino", "trt")
"""What "all" stands for: the other ways of running PyTorch cost minutes and are measured when they are named."""
PRECISIONS = ("fp32", "fp16", "int8")
EXPORT_SUFFIX = {"onnx": "onnx", "trt": "engine", "openvino": "xml"}
"""Format → suffix of its file; beside OpenVINO's .xml lies a .bin with the weights."""


@dataclass(frozen=True)
class RunTree:
    """Paths below ``runs/<dataset>/``, the tree that train, export and compare share."""

    runs: Path
    dataset: str

    @property
    def root(self) -> Path:
        return self.runs / self.dataset

    def method_dir(self, method: str) -> Path:
        return self.root / method

    def checkpoint(self, method: str) -> Path:
        """``student.safetensors`` of a method (``teacher.safetensors`` for the teacher); its sidecar is ``.json``."""
        return self.method_dir(method) / ("teacher.safetensors" if method == "teacher" else "student.safetensors")

    def seed_checkpoints(self, method: str) -> list[Path]:
        """The method's checkpoint, then those of further seeds (seed-<n>/student.safetensors): existing ones."""
        first = self.checkpoint(method)
        return [path for path in (first, *seed_files(self.method_dir(method), first.name)) if path.exists()]

    def export(self, method: str, export_format: str, precision: str, output: str) -> Path:
        """``<method>/exports/<format>-<precision>/<output>.<onnx|engine|xml>``; its sidecar is ``.json``."""
        folder = self.method_dir(method) / "exports" / f"{export_format}-{precision}"
        return folder / f"{output}.{EXPORT_SUFFIX[export_format]}"

    @staticmethod
    def find(runs: Path, dataset: str | None) -> RunTree:
        """The tree of ``dataset``, or of the one trained last when none is named.

        Raises:
            Missing: nothing was trained there yet.
        """
        if dataset is not None:
            return RunTree(runs, dataset)
        sidecars = [
            p for m in METHODS.names() for name in ("student", "teacher") for p in runs.glob(f"*/{m}/{name}.json")
        ]
        if not sidecars:
            raise Missing(f"no trained model under '{runs}': make one with `kdbench train --method all`")
        newest = max(sidecars, key=lambda p: p.stat().st_mtime)
        return RunTree(runs, newest.parent.parent.name)


def seed_files(method_dir: Path, name: str) -> list[Path]:
    """``seed-<n>/<name>`` in the order of n; a folder that a person named (seed-1-old) is no seed."""
    numbered = [p for p in method_dir.glob(f"seed-*/{name}") if re.fullmatch("seed-[0-9]+", p.parent.name)]
    return sorted(numbered, key=lambda path: int(path.parent.name[5:]))


def sidecar_path(artifact: Path) -> Path:
    return artifact.with_suffix(".json")
