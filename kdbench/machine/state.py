"""What a machine was doing while something was timed: load, steal, processor settings, GPU clocks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

GPU_FIELDS = (
    "name", "driver_version", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw",
    "clocks_throttle_reasons.active",
)  # fmt: skip
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def machine_state() -> dict[str, Any]:
    """Load average, the processors that this process may use, the frequency governor, and every GPU's clocks.

    None where the system does not tell.
    """
    import psutil

    process = psutil.Process()
    return {
        "load_average": load_average(),
        "affinity": process.cpu_affinity() if hasattr(process, "cpu_affinity") else None,
        "governor": GOVERNOR.read_text(encoding="ascii").strip() if GOVERNOR.is_file() else None,
        "gpus": gpu_clocks(),
    }


def load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def gpu_clocks() -> list[dict[str, str]]:
    """What ``nvidia-smi`` says of each GPU; empty without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.strip().splitlines() if done.returncode == 0 else []
    return [dict(zip(GPU_FIELDS, (part.strip() for part in line.split(",")), strict=False)) for line in lines]


def peak_memory_mib() -> float:
    """The most that this process held so far."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 2**20)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


class StealMeter:
    """Share of the CPU time since it was made that the hypervisor gave to other guests."""

    def __init__(self) -> None:
        import psutil

        self._read = psutil.cpu_times
        self._before = psutil.cpu_times()

    def share(self) -> float | None:
        """0 to 1; None where the system does not tell."""
        now = self._read()
        if not hasattr(now, "steal"):
            return None
        total = sum(now) - sum(self._before)
        return round((now.steal - self._before.steal) / total, 4) if total > 0 else 0.0
