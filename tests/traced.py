"""Graphs that torch.onnx traced before in this run of the tests: seconds each, and many tests export the same student.

The first test that exports a network traces it; whoever exports the very same one again (weights, code, size, output)
gets a copy of that graph, in any of pytest-xdist's processes. What a test changed of torch.onnx or of
``exporters.graph`` is never answered from here, and tests of tracing itself call ``exporters.graph`` directly.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from filelock import FileLock

COMPUTES = ("forward", "logits", "taps", "decode", "encode")
"""Methods of a module whose code is a part of what is traced."""


def fingerprint(module: Any, *how: Any) -> str | None:
    """A hash of a module, weights and code, and of how it is traced; None where it cannot be pickled."""
    import torch

    file = io.BytesIO()
    try:
        torch.save(module, file)
    except Exception:  # a network of a test's own, with a function within it
        return None
    found = hashlib.sha256(file.getvalue())
    for layer in module.modules():
        for name in COMPUTES:
            code = getattr(getattr(type(layer), name, None), "__code__", None)
            found.update(repr((name, code and (code.co_code, code.co_consts, code.co_names))).encode())
    found.update(repr(how).encode())
    return found.hexdigest()


def graphs_traced_once(folder: Path) -> Any:
    """A patch of the exporters under which each network is traced once; ``folder`` is all processes' own."""
    import torch.onnx

    from exporters import export_job, graph

    trace: Callable[..., None] = graph.write_graph
    as_it_was = {**vars(graph)}
    torchs_own = torch.onnx.export
    folder.mkdir(exist_ok=True)

    def write(module: Any, output: str, size: Any, path: Path, *, dynamic_batch: bool = False) -> None:
        patched = torch.onnx.export is not torchs_own or any(
            vars(graph).get(name) is not value for name, value in as_it_was.items()
        )
        key = None if patched else fingerprint(module, output, tuple(size), dynamic_batch)
        if key is None:
            trace(module, output, size, path, dynamic_batch=dynamic_batch)
            return
        made = folder / f"{key}.onnx"
        with FileLock(folder / f"{key}.lock"):
            if not made.exists():
                trace(module, output, size, path, dynamic_batch=dynamic_batch)
                shutil.copy(path, folder / f"{key}.part")
                os.replace(folder / f"{key}.part", made)
                return
        shutil.copy(made, path)

    return mock.patch.object(export_job, "write_graph", write)
