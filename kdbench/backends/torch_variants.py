"""PyTorch's ways to run a checkpoint, by name: eager, channels-last, compiled; ``torch_eager`` has the engine."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.backends.declared import BACKENDS, DeclaredBackend
from kdbench.machine.checks import Check, Gpu, Package, cpu, gpu_row, installed_version, package_row, try_import

if TYPE_CHECKING:
    from kdbench.backends.base import Backend

EAGER = "torch, torch-channels-last"
COMPILER = {
    "linux": "apt install g++",
    "darwin": "xcode-select --install",
    "win32": "winget install Microsoft.VisualStudio.2022.BuildTools",
}


class _Load:
    """Loads a checkpoint in the memory layout, or through the compiler, that a name stands for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, artifact: Path, **options: Any) -> Backend:
        from kdbench.backends.torch_eager import TorchBackend

        return TorchBackend.load(artifact, name=self._name, **options)


def probe_eager(gpu: Gpu | None) -> list[Check]:
    return [package_row(EAGER, "PyTorch eager", _import_torch(), cpu(), ("fp32",), None)]


def probe_compiled(gpu: Gpu | None) -> list[Check]:
    """The compiler on the CPU; and the GPU, on which all of them run."""
    torch = _import_torch()
    sees_gpu = torch.module is not None and torch.module.cuda.is_available()
    fix = "install a CUDA build of torch: https://pytorch.org/get-started/locally has the command"
    name = gpu.name if gpu is not None else None
    return [
        _compiled(torch),
        gpu_row(f"{EAGER}, torch-compile", "PyTorch CUDA", torch, name, ("fp32",), None if sees_gpu else fix),
    ]


def _import_torch() -> Package:
    torch = try_import("torch", "torch")
    if torch.module is not None:
        vision = try_import("kdbench.torchvision_compat", "torchvision")  # models are built from its parts
        if vision.module is None:
            fix = vision.fix if installed_version("torchvision") else "pip install torchvision"
            return Package(None, torch.version, f"torchvision {vision.problem}", fix)
    return torch


def _compiled(torch: Package) -> Check:
    name, engine = "torch-compile", "torch.compile"
    wanted = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "cl"]
    compiler = next((found for program in wanted if (found := shutil.which(program))), None)
    if torch.module is not None and compiler is None:
        fix = COMPILER.get(sys.platform, "install a C++ compiler")
        return Check(name, engine, torch.version, cpu(), (), False, f"no C++ compiler ({', '.join(wanted)})", fix)
    return package_row(name, engine, torch, cpu(), ("fp32",), None if compiler is None else f"compiler {compiler}")


BACKENDS.add(DeclaredBackend("torch", _Load("torch"), probe_eager, usual=True, color="#777777"))
BACKENDS.add(DeclaredBackend("torch-channels-last", _Load("torch-channels-last"), probe_eager, color="#999999"))
BACKENDS.add(DeclaredBackend("torch-compile", _Load("torch-compile"), probe_compiled, color="#BBBBBB"))
