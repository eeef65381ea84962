"""What this machine can run, engine by engine, and the command that makes it run what it cannot.

Every package is really imported, since one that is installed may still be broken; a failure is a row's reason, and the
other rows are made all the same. Nothing is downloaded, built or timed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import os
import platform
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from typing import Any

from kdbench.backends.tensorrt_cards import TENSORRT_INDEX, rtx_obstacle
from kdbench.errors import one_line
from kdbench.machine.environment import cpu_name

NO_GPU = "nothing does on this machine: needs an NVIDIA GPU"
COMPILER = {
    "linux": "apt install g++",
    "darwin": "xcode-select --install",
    "win32": "winget install Microsoft.VisualStudio.2022.BuildTools",
}


@dataclass(frozen=True)
class Check:
    """One engine on one kind of device.

    Attributes:
        name: the backend of ``kdbench compare``, or what ``kdbench export`` needs it for.
        engine: package and provider.
        version: of the package; None where it is not installed.
        device: what it runs on; None where it has none here.
        precisions: that it can compute in on this device; () where it is not ready.
        ready: whether it runs here.
        note: what else a person should know, or why it is not ready.
        fix: the command that makes it ready; None where it is.
    """

    name: str
    engine: str
    version: str | None
    device: str | None
    precisions: tuple[str, ...]
    ready: bool
    note: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class Package:
    """An import that was tried.

    Attributes:
        module: None where it is missing or broken.
        problem: "not installed", or the error of the import.
        fix: the command that installs it, or installs it again.
    """

    module: Any
    version: str | None
    problem: str | None
    fix: str | None


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU, as its driver describes it.

    Attributes:
        capability: compute capability, major and minor; None where the driver is too old to tell.
    """

    name: str
    capability: tuple[int, int] | None = None


def diagnose() -> list[Check]:
    """All rows, in the order of the table."""
    gpu = find_gpu()
    name = gpu.name if gpu is not None else None
    return [*_torch(name), *_onnxruntime(name), _openvino(), *_tensorrt(gpu), *_exporters()]


def try_import(module: str, *distributions: str) -> Package:
    """Import a package; whatever goes wrong becomes ``problem``.

    Args:
        distributions: names that pip knows it by, in the order of preference; the first is what a fix installs.
    """
    version = next((found for name in distributions if (found := _version(name))), None)
    if importlib.util.find_spec(module) is None:
        return Package(None, None, "not installed", f"pip install {distributions[0]}")
    silent = io.StringIO()
    logging_was = logging.root.manager.disable
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            loaded = importlib.import_module(module)
    except Exception as error:  # a broken package raises what it likes
        reason = one_line(error) or "no message"
        installed = next((name for name in distributions if _version(name)), distributions[0])
        problem = f"cannot be imported ({type(error).__name__}: {reason})"
        return Package(None, version, problem, f"pip install --force-reinstall {installed}")
    finally:
        logging.disable(logging_was)
    return Package(loaded, version or str(getattr(loaded, "__version__", "?")), None, None)


def find_gpu() -> Gpu | None:
    """The first NVIDIA GPU by its driver, whichever packages are installed."""
    lines = _nvidia_smi("name,compute_cap") or _nvidia_smi("name")  # drivers before 2021 know no compute_cap
    if not lines:
        return None
    name, _, capability = lines[0].partition(", ")
    major, point, minor = capability.partition(".")
    told = bool(point) and major.isdigit() and minor.isdigit()
    return Gpu(name.strip(), (int(major), int(minor)) if told else None)


def _nvidia_smi(fields: str) -> list[str]:
    """One line for each GPU; [] where the program is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, timeout=3
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    return f"{cpu_name()}, {os.cpu_count()} cores"


def _row(name: str, engine: str, package: Package, device: str, precisions: tuple[str, ...], note: str | None) -> Check:
    """A row that is ready exactly when its package could be imported."""
    if package.module is None:
        return Check(name, engine, package.version, device, (), False, package.problem, package.fix)
    return Check(name, engine, package.version, device, precisions, True, note)


def _gpu_row(
    name: str, engine: str, package: Package, gpu: str | None, precisions: tuple[str, ...], works: bool, install: str
) -> Check:
    """A row of what needs a GPU.

    Args:
        works: whether the package, on its own word, can use the GPU.
        install: the fix where it cannot although there is one.
    """
    if gpu is None:
        return Check(name, engine, package.version, None, (), False, package.problem or "no NVIDIA GPU here", NO_GPU)
    if package.module is None:
        return Check(name, engine, package.version, gpu, (), False, package.problem, package.fix)
    if not works:
        return Check(name, engine, package.version, gpu, (), False, "this build of it does not see the GPU", install)
    return Check(name, engine, package.version, gpu, precisions, True)


def _torch(gpu: str | None) -> list[Check]:
    torch = try_import("torch", "torch")
    if torch.module is not None:
        vision = try_import("kdbench.torchvision_compat", "torchvision")  # models are built from its parts
        if vision.module is None:
            fix = vision.fix if _version("torchvision") else "pip install torchvision"
            torch = Package(None, torch.version, f"torchvision {vision.problem}", fix)
    names = "torch, torch-channels-last"
    eager = _row(names, "PyTorch eager", torch, _cpu(), ("fp32",), None)
    rows = [eager, _compiled(torch)]
    sees_gpu = torch.module is not None and torch.module.cuda.is_available()
    fix = "install a CUDA build of torch: https://pytorch.org/get-started/locally has the command"
    return [*rows, _gpu_row(f"{names}, torch-compile", "PyTorch CUDA", torch, gpu, ("fp32",), sees_gpu, fix)]


def _compiled(torch: Package) -> Check:
    name, engine = "torch-compile", "torch.compile"
    wanted = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "cl"]
    compiler = next((found for program in wanted if (found := shutil.which(program))), None)
    if torch.module is not None and compiler is None:
        fix = COMPILER.get(sys.platform, "install a C++ compiler")
        return Check(name, engine, torch.version, _cpu(), (), False, f"no C++ compiler ({', '.join(wanted)})", fix)
    return _row(name, engine, torch, _cpu(), ("fp32",), None if compiler is None else f"compiler {compiler}")


def _onnxruntime(gpu: str | None) -> list[Check]:
    package = try_import("onnxruntime", *("onnxruntime-gpu", "onnxruntime")[:: 1 if gpu else -1])
    providers: list[str] = []
    if package.module is not None:
        try:
            providers = package.module.get_available_providers()
        except Exception as error:  # for example a leftover folder without the library
            reason = f"is incomplete ({type(error).__name__}: {error})"
            package = Package(None, package.version, reason, "pip install --force-reinstall onnxruntime")
    note = None
    if platform.machine().lower() in ("x86_64", "amd64"):
        note = "fp16 files are computed in fp32 on this processor: their rows fail"
    return [
        _row("onnx", "ONNX Runtime CPU", package, _cpu(), ("fp32", "int8"), note),
        _gpu_row(
            "onnx", "ONNX Runtime CUDA", package, gpu, ("fp32", "fp16"), "CUDAExecutionProvider" in providers,
            "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
        ),
    ]  # fmt: skip


def _openvino() -> Check:
    package = try_import("openvino", "openvino")
    device = _cpu()
    if package.module is not None:
        try:
            core = package.module.Core()
            device = f"{core.get_property('CPU', 'FULL_DEVICE_NAME').strip()}, {os.cpu_count()} cores"
        except Exception as error:  # no CPU plugin, or a leftover folder without the library
            reason = f"has no CPU device ({type(error).__name__}: {one_line(error, 200)})"
            package = Package(None, package.version, reason, "pip install --force-reinstall openvino")
    return _row("openvino", "OpenVINO CPU", package, device, ("fp32", "int8"), None)


def _tensorrt(gpu: Gpu | None) -> list[Check]:
    name, precisions = gpu.name if gpu is not None else None, ("fp32", "fp16", "int8")
    package = try_import("tensorrt", "tensorrt")
    whole = _gpu_row("trt", "TensorRT", package, name, precisions, True, "")
    if gpu is not None and package.module is None:
        whole = replace(whole, note=f"{package.problem}: {TENSORRT_INDEX}")
    package = try_import("tensorrt_rtx", "tensorrt-rtx")
    rtx = _gpu_row("trt", "TensorRT for RTX", package, name, precisions, True, "")
    if package.module is not None:
        if gpu is None:
            rtx = replace(rtx, note="no NVIDIA GPU here; engines are built ahead of time")
        elif gpu.capability is not None and (obstacle := rtx_obstacle(gpu.capability)) is not None:
            rtx = replace(rtx, precisions=(), ready=False, note=obstacle[0], fix=obstacle[1])
    return [whole, rtx]


def _exporters() -> list[Check]:
    every = ("fp32", "fp16", "int8")
    return [
        _row("export onnx", "ONNX", try_import("onnx", "onnx"), _cpu(), every, None),
        _row("export onnx", "ONNX Script", try_import("onnxscript", "onnxscript"), _cpu(), every, None),
        _row("export openvino, trt", "NNCF", try_import("nncf", "nncf"), _cpu(), ("int8",), None),
    ]
