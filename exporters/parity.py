"""Proof that an export is still the same model. The core compares; an export that drifted is refused here."""

from __future__ import annotations

from kdbench.comparison.parity import Parity, compare_outputs, drift
from kdbench.errors import RunFailed

__all__ = ["Parity", "compare_outputs", "drift", "require_parity"]


def require_parity(parity: Parity, precision: str, what: str, reference: str = "PyTorch") -> None:
    """Raise RunFailed with one sentence when an export drifted further than its precision may."""
    if problem := drift(parity, precision, reference):
        more = ", --keep-float leaves layers in float" if precision == "int8" else ""
        raise RunFailed(f"{what}: {problem}: the export was not kept; --allow-drift keeps it{more}")
