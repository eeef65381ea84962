"""Latency of artifacts, one case each: ``kdbench compare`` and ``latency_suite`` run this file in processes of its own.

Timed is ``Backend.infer`` on host memory: for ``mask`` from uint8 images to uint8 class maps with normalisation and
argmax inside; for ``logits`` the network alone, from normalised images. Copies to and from a GPU are inside. Calls
rotate over several real images. The first call, and calls until two windows of them agree, are not among the rounds.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench.backends import load_backend
from kdbench.comparison.latency import until_steady
from kdbench.machine.control_groups import ThrottleMeter
from kdbench.machine.state import StealMeter, machine_state, peak_memory_mib


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    spec_file = metafunc.config.getoption("--spec")
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8")) if spec_file else {"cases": []}
    cases = [{**spec, **case} for case in spec["cases"]]
    metafunc.parametrize("case", cases, ids=[case["name"] for case in cases])


def test_latency(benchmark: Any, case: dict[str, Any]) -> None:
    state, started = machine_state(), time.perf_counter()
    backend = load_backend(
        case["backend"],
        Path(case["artifact"]),
        output=case["output"],
        size=tuple(case["size"]) if case["size"] else None,
        device=case["device"],
        threads=case["threads"],
    )
    load_ms = (time.perf_counter() - started) * 1e3
    try:
        prepared = [backend.prepare(image) for image in np.load(case["images"])]
        count = case["batch"]
        # Batch i holds the images from number i on, so that every call sees other ones.
        batches = itertools.cycle(
            [np.concatenate([prepared[(i + j) % len(prepared)] for j in range(count)]) for i in range(len(prepared))]
        )

        def call_ms() -> float:
            batch = next(batches)
            began = time.perf_counter()
            backend.infer(batch)
            return (time.perf_counter() - began) * 1e3

        first_ms = call_ms()
        warmup_calls = until_steady(call_ms)
        meter, quota = StealMeter(), ThrottleMeter()
        benchmark.pedantic(backend.infer, setup=lambda: ((next(batches),), {}), rounds=case["rounds"])
        benchmark.extra_info |= {
            "case": case["name"], "backend": case["backend"], "output": case["output"], "batch": count,
            "threads": case["threads"], "device": case["device"], "load_ms": load_ms, "first_ms": first_ms,
            "warmup_calls": warmup_calls, "steal": meter.share(),
            "throttled": quota.share(), "peak_mib": peak_memory_mib(),
            "gpu_mib": gpu_memory_mib(case["device"]), "before": state, "after": machine_state(),
        }  # fmt: skip
    finally:
        backend.close()


def gpu_memory_mib(device: str) -> float | None:
    """In use on the GPU, by whatever engine: measured while the artifact is loaded."""
    if device != "cuda":
        return None
    import torch

    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**20
