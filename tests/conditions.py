"""What this machine lacks, as the reason of a skip: packages, a builder of engines, a GPU.

Tests without the mark ``gpu`` run as on a machine that has none, so that they expect the same everywhere.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re

import torch

HAS_GPU = torch.cuda.is_available()
"""Asked once, before ``hidden_gpu``: CUDA reads its environment variables here and never again in this process."""
ENGINE_BUILDER = "an engine builder"
"""Stands for tensorrt beside a GPU, and for tensorrt-rtx anywhere, in ``missing``."""
_OPTIONAL = ("nncf", "openvino", "plotly", "pydantic", "ray", "rich")
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_REALLY = torch.cuda.is_available, os.environ.get(_VISIBLE)


def missing(*packages):
    """Why a test cannot run here, or None: the first of ``packages`` that is not installed."""
    for package in packages:
        modules = [package]
        if package == ENGINE_BUILDER:
            modules = ["tensorrt", "tensorrt_rtx"] if HAS_GPU else ["tensorrt_rtx"]
        if not any(importlib.util.find_spec(module) for module in modules):
            return f"{modules[-1]} is not installed: pip install {modules[-1].replace('_', '-')}"
    return None


def missing_import(message):
    """The reason in the text of a failed import, or None where something else than an absent package failed it."""
    found = re.search(rf"ModuleNotFoundError: No module named '({'|'.join(_OPTIONAL)})'", str(message))
    return missing(found[1]) if found else None


@contextlib.contextmanager
def hidden_gpu(hide=True):
    """Run the block, and the processes that it starts, as on a machine without a GPU, or with it where not ``hide``."""
    before = torch.cuda.is_available, os.environ.get(_VISIBLE)
    if HAS_GPU:
        _pretend(*((lambda: False, "") if hide else _REALLY))
    try:
        yield
    finally:
        if HAS_GPU:
            _pretend(*before)


def _pretend(is_available, visible):
    torch.cuda.is_available = is_available
    os.environ.pop(_VISIBLE, None)
    if visible is not None:
        os.environ[_VISIBLE] = visible
