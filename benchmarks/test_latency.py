"""Latency of one backend's artifacts: ``kdbench compare`` runs this file in a process of its own per backend.

Timed is ``Backend.infer`` on host memory, batch 1: for ``mask`` from a uint8 image to a uint8 class map with
normalisation and argmax inside; for ``logits`` the network alone, from a normalised image. Copies to and from a GPU
are inside. Calls rotate over several real images.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench.backends import load_backend


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    spec_file = metafunc.config.getoption("--spec")
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8")) if spec_file else {"cases": []}
    cases = [{**spec, **case} for case in spec["cases"]]
    metafunc.parametrize("case", cases, ids=[case["name"] for case in cases])


def test_latency(benchmark: Any, case: dict[str, Any]) -> None:
    backend = load_backend(
        case["backend"],
        Path(case["artifact"]),
        output=case["output"],
        size=tuple(case["size"]) if case["size"] else None,
        device=case["device"],
        threads=case["threads"],
    )
    try:
        batches = itertools.cycle([backend.prepare(image) for image in np.load(case["images"])])
        benchmark.extra_info["case"] = case["name"]
        benchmark.pedantic(
            backend.infer,
            setup=lambda: ((next(batches),), {}),
            rounds=case["rounds"],
            warmup_rounds=case["warmup_rounds"],
        )
    finally:
        backend.close()
