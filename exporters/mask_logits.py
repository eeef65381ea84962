"""The logits inside an ONNX file that returns a mask: where they were before the argmax.

Masks can agree for want of anything to disagree on, as those of an untrained network with one class everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from exporters.export_job import ExportJob
from exporters.graph import remove_unused
from kdbench.backends.onnx_runtime import open_session
from kdbench.data.preprocessing import resize_image
from kdbench.machine.cores import answer_threads
from kdbench.machine.scratch import ScratchFolder

IMAGES = 2
"""Logits are compared on so many: a wrong graph shows on the first."""


def logit_difference(job: ExportJob, path: Path) -> tuple[float, float] | None:
    """Largest difference of a logit from the reference's, and how far those reach from lowest to highest.

    Args:
        path: an ONNX file whose mask is the ArgMax of its logits.

    Returns:
        None where it has no such ArgMax, or a number that is not finite.
    """
    import onnx

    model = onnx.load(path)
    if not return_logits(model):
        return None
    assert job.size is not None
    difference, low, high = 0.0, np.inf, -np.inf
    with ScratchFolder("logits") as folder:
        cut = Path(folder) / "logits.onnx"
        onnx.save(model, cut)
        session, _ = open_session(cut, threads=answer_threads(), spinning=False)
        for index in range(min(IMAGES, len(job.samples))):
            image = resize_image(job.samples[index].image, job.size)
            stride = job.mask_stride
            expected = job.logits(image)[..., ::stride, ::stride]  # each value of which is there stride x stride times
            got = session.run(None, {session.get_inputs()[0].name: image[None]})[0].astype(np.float32)
            if got.shape != expected.shape:
                return None
            difference = max(difference, float(np.abs(got - expected).max()))
            low, high = min(low, float(expected.min())), max(high, float(expected.max()))
    return (difference, high - low) if np.isfinite([difference, high - low]).all() else None


def return_logits(model: Any) -> bool:
    """Make a mask graph return what its ArgMax reads; False, and nothing changed, where it has none."""
    import onnx

    graph = model.graph
    last = next((node for node in reversed(graph.node) if node.op_type == "ArgMax"), None)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {value.name: value for value in inferred.value_info}
    if last is None or last.input[0] not in known:
        return False
    del graph.output[:]
    graph.output.append(known[last.input[0]])
    remove_unused(graph)
    return True
