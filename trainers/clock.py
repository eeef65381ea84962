"""Seconds of a step: on a GPU by events, because a launch returns before its work is done."""

from __future__ import annotations

import time

import torch

Mark = float | torch.cuda.Event
"""A point in the device's order of work."""


def mark(device: torch.device) -> Mark:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start: Mark, end: Mark) -> float:
    """Waits until the device has reached ``end``; marks are made without waiting."""
    if isinstance(start, float) or isinstance(end, float):
        return float(end) - float(start)  # type: ignore[arg-type]  # both, as they are of one device
    end.synchronize()
    return start.elapsed_time(end) / 1e3
