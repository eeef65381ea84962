"""The methods: which losses a student trains with, and how they are named and drawn. One file each, a card.

The loss is L = α·CE + Σ weight · term. To add a method, write a file like those here and name it below; a file from
outside is named by ``kdbench --plugin`` instead (docs/add-a-method.md).
"""

import importlib

from kdbench.methods.base import METHODS, PER_PIXEL, Method, RecipeField, Style, Term

__all__ = ["METHODS", "PER_PIXEL", "Method", "RecipeField", "Style", "Term"]

BUILT_IN = (
    "baseline",
    "response",
    "feature",
    "combined",
    "cwd",
    "dist",
    "imitation",
    "baseline_long",
    "teacher",
)
"""Files here, in the order of tables and plots."""

for name in BUILT_IN:
    importlib.import_module(f"kdbench.methods.{name}")
