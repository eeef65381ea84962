"""What a row of ``kdbench doctor`` is made of: a package that was really imported, a device, what would help.

A package that is installed may still be broken, so it is imported; whatever goes wrong becomes the row's reason.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from typing import Any

from kdbench.errors import one_line
from kdbench.machine.cores import cores
from kdbench.machine.environment import cpu_name

NO_GPU = "nothing does on this machine: needs an NVIDIA GPU"


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


def try_import(module: str, *distributions: str) -> Package:
    """Import a package; whatever goes wrong becomes ``problem``.

    Args:
        distributions: names that pip knows it by, in the order of preference; the first is what a fix installs.
    """
    version = next((found for name in distributions if (found := installed_version(name))), None)
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
        installed = next((name for name in distributions if installed_version(name)), distributions[0])
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


def installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu() -> str:
    return f"{cpu_name()}, {cores().told()}"


def package_row(
    name: str, engine: str, package: Package, device: str, precisions: tuple[str, ...], note: str | None
) -> Check:
    """A row that is ready exactly when its package could be imported."""
    if package.module is None:
        return Check(name, engine, package.version, device, (), False, package.problem, package.fix)
    return Check(name, engine, package.version, device, precisions, True, note)


def gpu_row(
    name: str, engine: str, package: Package, gpu: str | None, precisions: tuple[str, ...], install: str | None = None
) -> Check:
    """A row of what needs a GPU.

    Args:
        install: the fix where the package, on its own word, cannot use the GPU; None where it can.
    """
    if gpu is None:
        return Check(name, engine, package.version, None, (), False, package.problem or "no NVIDIA GPU here", NO_GPU)
    if package.module is None:
        return Check(name, engine, package.version, gpu, (), False, package.problem, package.fix)
    if install is not None:
        return Check(name, engine, package.version, gpu, (), False, "this build of it does not see the GPU", install)
    return Check(name, engine, package.version, gpu, precisions, True)
