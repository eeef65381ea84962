"""Which NVIDIA GPUs TensorRT for RTX runs on, and where TensorRT's own package can be installed."""

from __future__ import annotations

PORTABLE = ((8, 0), (8, 6), (8, 9))
"""Compute capabilities below ``NEWEST`` that an engine runs on which was built for several cards."""
NEWEST = (12, 0)
"""Every compute capability from here on as well."""
TURING = (7, 5)
"""Runs engines too, but only those that were built for it alone."""
TENSORRT_INDEX = (
    "its wheels on PyPI hold no libraries and fetch them from NVIDIA's own package index, which must be reachable"
)
"""What to know before ``pip install tensorrt``."""


def rtx_obstacle(capability: tuple[int, int]) -> tuple[str, str] | None:
    """Why a card does not run what ``kdbench export --format trt`` builds with TensorRT for RTX, and what to do.

    The list is what its runtime says when it refuses an engine: "Supported compute capabilities: 8.0 8.6 8.9 12.0
    12.1 >12.0". An H100 or H200 has 9.0.

    Args:
        capability: of the card, major and minor.

    Returns:
        None where it does run it.
    """
    if capability in PORTABLE or capability >= NEWEST:
        return None
    card = f"compute capability {capability[0]}.{capability[1]}"
    if capability == TURING:
        return (
            f"runs only engines that were built for it alone on a GPU of {card}",
            "kdbench export --format trt --compute-capability SM75",
        )
    known = ", ".join(f"{major}.{minor}" for major, minor in PORTABLE)
    return (
        f"does not run on a GPU of {card}, only on {known}, {NEWEST[0]}.{NEWEST[1]} and newer",
        "use ONNX Runtime CUDA in its place: kdbench compare --backend onnx --device cuda",
    )
