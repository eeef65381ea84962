"""Proof of precision: what an engine computes in, read from the engine itself and held against what was asked.

Counted are compute operators alone (convolutions and matrix products), where the time goes. A file's name, a builder's
flag or a fast row prove nothing: ONNX Runtime's CPU provider computes float16 convolutions in float32, OpenVINO
float32 ones in bfloat16, each without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kdbench.errors import RunFailed

LEAST_SHARE = 0.5
"""Share of compute operators that must run in the precision asked for, when that is fp16 or int8.

Half, because layers may be kept in float for accuracy, and engines leave small ones (squeeze-and-excitation on 1 x 1
maps) in float when that is faster. fp32 must be all of it: a float32 row in bfloat16 is another model.
"""

ROUNDING = 1e-3
"""How far shares that are rounded to four places may be from their sum."""


def share_by_type(types: Iterable[str]) -> dict[str, float]:
    """Share of each type, largest first: {"int8": 0.9, "fp32": 0.1}."""
    count = Counter(types)
    return {name: round(number / count.total(), 4) for name, number in count.most_common()}


def require_precision(shares: dict[str, float], precision: str, what: str) -> None:
    """Raise RunFailed where an engine does not compute in the precision that was asked for.

    Args:
        shares: from ``share_by_type``; empty where an engine has no compute operators, or does not tell.
        precision: "fp32", "fp16" or "int8".
        what: names the engine and file in the message.
    """
    needed = 1.0 if precision == "fp32" else LEAST_SHARE
    # TF32 is how GPUs multiply float32 unless told otherwise, PyTorch's convolutions included; tables name it.
    ran_so = sum(shares.get(name, 0.0) for name in ((precision, "tf32") if precision == "fp32" else (precision,)))
    if shares and ran_so < needed - ROUNDING:
        ran = ", ".join(f"{100 * share:.0f}% {name}" for name, share in shares.items())
        raise RunFailed(
            f"{what} was to run in {precision}, but its convolutions and matrix products run as {ran}, expected "
            f"{'all' if needed == 1 else f'at least {100 * needed:.0f}%'} in {precision}: this engine does not compute "
            f"in {precision} here; compare another precision or backend"
        )
