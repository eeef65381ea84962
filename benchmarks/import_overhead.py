"""What wrapping costs: an imported file from uint8 image to mask, against the file itself behind NumPy's preprocessing.

    python -m benchmarks.import_overhead --json results/import-overhead.json

The file is torchvision's lraspp_mobilenet_v3_large as a stranger exports it: float N x 3 x H x W → logits, untrained
(weights do not change the time). ``raw`` ends at the logits; ``raw+argmax`` goes on to the mask, as the wrapped file
does.
Timed side by side (``interleaved``), in ONNX Runtime. The goal is a ratio of at most 1.03 against ``raw``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.import_strangers import STRANGERS, build, write_file
from benchmarks.interleaved import Call, Contender, alternate, ratio_with_interval
from exporters.wrap import wrap
from kdbench.backends.onnx_file import OnnxFile
from kdbench.backends.onnx_layout import Reading
from kdbench.backends.onnx_runtime import open_session
from kdbench.data.preprocessing import normalise, parse_size
from kdbench.machine.environment import environment
from kdbench.runs.files import write_json

CLASSES, GOAL = 11, 1.03


def open_call(path: Path, way: str, size: tuple[int, int], threads: int) -> Call:
    """From an H x W x 3 uint8 image to what ``way`` ends at."""
    session, _ = open_session(path, threads=threads)
    name = session.get_inputs()[0].name
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(4)]
    if way == "wrapped":
        return lambda index: session.run(None, {name: images[index % 4][None]})[0]

    def raw(index: int) -> object:
        scores = session.run(None, {name: normalise(images[index % 4][None])})[0]
        return scores if way == "raw" else scores.argmax(1).astype(np.uint8)

    return raw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=parse_size, default=(512, 512), help="HEIGHTxWIDTH")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    import onnx

    with tempfile.TemporaryDirectory(prefix="kdbench-overhead-") as folder:
        raw, wrapped = Path(folder) / "raw.onnx", Path(folder) / "wrapped.onnx"
        stranger = STRANGERS["lraspp"]
        write_file(stranger, build(stranger, CLASSES), raw, arguments.size)
        file = OnnxFile.open(raw, Reading(range=1, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
        onnx.save(wrap(file, raw, "mask"), wrapped)
        file.close()
        contenders = [
            Contender(way, open_call, wrapped if way == "wrapped" else raw, way, arguments.size, arguments.threads)
            for way in ("wrapped", "raw", "raw+argmax")
        ]
        found = alternate(contenders, arguments.blocks)
        for contender in contenders:
            contender.stop()
    ratios = {way: ratio_with_interval(found["wrapped"], found[way]) for way in ("raw", "raw+argmax")}
    report = {
        "schema_version": 1, "benchmark": "import_overhead", "size": list(arguments.size), "threads": arguments.threads,
        "block_ms": found, "ratio_to": {way: {"ratio": r, "ci95": [a, b]} for way, (r, a, b) in ratios.items()},
        "goal": GOAL, "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(f"{arguments.size[0]} x {arguments.size[1]}, {arguments.threads} threads, {arguments.blocks} blocks")
    for way, values in found.items():
        print(f"{way:<12}{statistics.median(values):>9.2f} ms")
    for way, (ratio, low, high) in ratios.items():
        print(f"wrapped / {way}: {ratio:.3f}, 95% interval {low:.3f} to {high:.3f}")
    print(f"goal, at most {GOAL} of raw: {'met' if ratios['raw'][2] <= GOAL else 'not shown'}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
