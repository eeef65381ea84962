"""What a result must carry to be believed: hardware, versions, revision, command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdbench.machine.cores import cores

PACKAGES = (
    "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx",
    "openvino", "nncf", "numpy", "pytest-benchmark",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> dict[str, Any]:
    """The checkout that this kdbench runs from: {"revision": str | None, "dirty": bool | None}."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    if revision is None:
        return {"revision": None, "dirty": None}
    return {"revision": revision, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def hardware() -> dict[str, Any]:
    import psutil
    import torch

    usable = cores()
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable.number,
        "usable_cores_by": usable.source,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "os": f"{platform.system()} {platform.machine()}",
    }


def command_line() -> str:
    """The command as a person would type it: ``kdbench``, or the module that ``python -m`` runs, and its arguments."""
    module = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
    return " ".join([f"python -m {module}" if module.startswith("benchmarks.") else "kdbench", *sys.argv[1:]])


def process_rank() -> int:
    """Which of the processes that ``torchrun`` or ``accelerate launch`` started this is; 0 without a launcher."""
    text = os.environ.get("RANK", "")
    return int(text) if text.isdecimal() else 0


def environment() -> dict[str, Any]:
    """The ``environment`` object of results and sidecars; no host name, no user name, no absolute path."""
    return {
        "hardware": hardware(),
        "versions": versions(),
        "git": git_revision(),
        "command": command_line(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
