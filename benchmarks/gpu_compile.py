"""Compile ways to run a network side by side, each in a process, into the compiler's cache on disk.

    python -m benchmarks.gpu_compile --bundle .gpu/bundle --way "fused torch.compile fp16" --batch 16 --size 512x512

``gpu_latency`` starts these before it measures: one compilation uses a core for most of its time, and machines with a
GPU have many. What is in the cache is opened in seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_bundle import Bundle
from benchmarks.gpu_engine import buffers
from benchmarks.gpu_ways import WAYS, Opener, Way
from kdbench.data.preprocessing import Size, parse_size

Work = tuple[Way, int, Size]
"""A way, a batch, and the size of an image."""


def compile_ahead(
    bundle: Path, device: str, work: Sequence[Work], seconds: float, log: Path
) -> tuple[float, list[Work]]:
    """Compile all of ``work`` at the same time and stop what takes longer than ``seconds``.

    Returns:
        How long it took, and what was compiled to the end.
    """
    started = time.monotonic()
    with open(log, "ab") as output:
        processes = [
            subprocess.Popen(
                [
                    sys.executable, "-m", "benchmarks.gpu_compile", "--bundle", str(bundle), "--device", device,
                    "--way", way.name, "--batch", str(batch), "--size", f"{size[0]}x{size[1]}",
                ],
                stdout=output, stderr=output,
            )
            for way, batch, size in work
        ]  # fmt: skip
        try:
            for process in processes:
                process.wait(max(0.1, started + seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            for process in processes:
                process.kill()
                process.wait()
    done = [one for one, process in zip(work, processes, strict=True) if process.returncode == 0]
    return time.monotonic() - started, done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--way", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--size", type=parse_size, required=True)
    arguments = parser.parse_args()
    way = next(way for way in WAYS if way.name == arguments.way)
    opener = Opener(Bundle.open(arguments.bundle), arguments.device, Path(__file__).with_suffix(".log"))
    images, _ = buffers(arguments.batch, arguments.size, arguments.device)
    _, about = opener.torch_module(way, images)
    print(f"{way.name}, batch {arguments.batch}: {about}", flush=True)


if __name__ == "__main__":
    main()
