"""One training step of all arms that are trained side by side: as PyTorch runs it, or as CUDA graphs.

On a GPU a student's step is some thousand kernels of microseconds each, and launching them takes longer than running
them. There the teacher's pass is recorded once as a CUDA graph, and so is each arm's whole step: forward, losses,
backward and optimizer. Arms replay on streams of their own, so that the GPU runs them side by side. A replay is the
very work that was recorded, so that nothing else about the training changes; where recording fails, every step is
launched as before, which is said once. (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from kdbench.errors import one_line
from kdbench.models.segmentation import SegmentationModel, Taps
from trainers.arm import Arm
from trainers.batches import Batch, TrainingBatches
from trainers.clock import Mark, mark, seconds_between
from trainers.processes import is_main, world_size
from trainers.recipe import Recipe

WARMUP_STEPS = 3
SEEDS = 2**63
"""What PyTorch's generators take."""


def reseed(device: torch.device, seed: int) -> None:
    """``torch.manual_seed`` for one device, without asking what others there are."""
    torch.default_generator.manual_seed(seed % SEEDS)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed % SEEDS)


class Steps:
    """Steps of PyTorch as it is: arm after arm, kernel by kernel.

    Args:
        arms: trained side by side; they share nothing but batches and the teacher's pass.
        teacher: in eval mode on the batches' device, or None when no arm reads it, or batches have its taps.
    """

    def __init__(self, arms: list[Arm], teacher: SegmentationModel | None) -> None:
        self.teacher, self.recipe = teacher, arms[0].recipe
        self._spans: list[tuple[Arm, Mark, Mark]] = []

    def run(self, arms: list[Arm], batch: Batch, seed: int = 0) -> None:
        """Train each of ``arms`` on a batch, and add its losses to ``arm.running``.

        Args:
            seed: of what is random in a network. Each arm draws anew, so that it draws what it would draw alone.
        """
        device = batch.images.device
        before = mark(device)
        taps = batch.taps
        if self.teacher is not None:
            taps = teacher_taps(self.teacher, batch.view, self.recipe)
        taught = mark(device)
        for arm in arms:
            reseed(device, seed)
            started = mark(device)
            arm_step(arm, batch, taps)
            arm.scheduler.step()
            self.charge(arm, started, mark(device), before, taught)

    def charge(self, arm: Arm, started: Mark, ended: Mark, before: Mark, taught: Mark) -> None:
        """Note what a step took. The teacher's pass is part of what a distilled arm costs, though arms share it."""
        self._spans.append((arm, started, ended))
        if arm.objective.terms:
            self._spans.append((arm, before, taught))

    def join(self) -> None:
        """Let what is read from now on wait for every step so far."""

    def settle(self) -> None:
        """Wait for the device, and add the seconds of all steps since the last time to their arms."""
        self.join()
        for arm, started, ended in self._spans:
            arm.seconds += seconds_between(started, ended)
        self._spans = []


class GraphSteps(Steps):
    """Steps of recorded graphs. Batches must have the shape of the first one.

    Args:
        example: a batch to record with; nothing is learnt from it.

    Raises:
        RuntimeError: something in a step cannot be recorded; the arms are as they were.
    """

    def __init__(self, arms: list[Arm], teacher: SegmentationModel | None, example: Batch) -> None:
        super().__init__(arms, teacher)
        images = example.images.clone()
        view = images if example.view is example.images else example.view.clone()
        self._batch = Batch(images, example.labels.clone(), view)
        self._taps, self._teaching = None if example.taps is None else cloned(example.taps), None
        if teacher is not None:
            self._taps, self._teaching = self._record_teacher(teacher)
        self._graphs = {id(arm): self._record(arm) for arm in arms}

    def _record_teacher(self, teacher: SegmentationModel) -> tuple[Taps, torch.cuda.CUDAGraph]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                teacher_taps(teacher, self._batch.view, self.recipe)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            taps = teacher_taps(teacher, self._batch.view, self.recipe)
        return taps, graph

    def _record(self, arm: Arm) -> tuple[torch.cuda.CUDAGraph, torch.cuda.Stream]:
        """Record an arm's step. Steps before it, which set up libraries and optimizer, are undone."""
        arm.objective.train()
        stream = torch.cuda.Stream()
        before = snapshot(arm)
        try:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARMUP_STEPS):
                    arm.running = {}
                    arm_step(arm, self._batch, self._taps)
                arm.running = {name: torch.zeros_like(value) for name, value in arm.running.items()}
                arm.optimizer.zero_grad(set_to_none=True)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                arm_step(arm, self._batch, self._taps)
        finally:
            restore(arm, before)
        return graph, stream

    def run(self, arms: list[Arm], batch: Batch, seed: int = 0) -> None:
        # Only here, and not after the last step: this batch was made beside it.
        self.join()
        self._batch.images.copy_(batch.images)
        self._batch.labels.copy_(batch.labels)
        if self._batch.view is not self._batch.images:
            self._batch.view.copy_(batch.view)
        if batch.taps is not None and self._taps is not None:
            self._taps.logits.copy_(batch.taps.logits)
            for level, maps in self._taps.features.items():
                maps.copy_(batch.taps.features[level])
        self.replay(arms, seed)

    def replay(self, arms: list[Arm], seed: int = 0) -> None:
        """A step on the batch before; alone it is what benchmarks hold training against."""
        self.join()
        main, device = torch.cuda.current_stream(), self._batch.images.device
        before = mark(device)
        if self._teaching is not None:
            self._teaching.replay()
        taught = mark(device)
        for arm in arms:
            graph, stream = self._graphs[id(arm)]
            stream.wait_stream(main)
            reseed(device, seed)  # which a replay reads
            with torch.cuda.stream(stream):
                started = mark(device)
                graph.replay()
                ended = mark(device)
                arm.scheduler.step()
            self.charge(arm, started, ended, before, taught)

    def join(self) -> None:
        for _, stream in self._graphs.values():
            torch.cuda.current_stream().wait_stream(stream)


def make_steps(arms: list[Arm], teacher: SegmentationModel | None, batches: TrainingBatches) -> Steps:
    """Graphs on a GPU where they can be recorded, else steps of PyTorch as it is."""
    if batches.device.type != "cuda" or world_size() > 1:
        return Steps(arms, teacher)
    try:
        return GraphSteps(arms, teacher, next(iter(batches.epoch(0))))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if is_main():
            reason = one_line(error)
            print(f"kdbench: steps are launched one by one, as they cannot be a CUDA graph: {reason}", file=sys.stderr)
        return Steps(arms, teacher)


def arm_step(arm: Arm, batch: Batch, taps: Taps | None) -> None:
    """Forward, losses, backward and optimizer; the losses are added to ``arm.running``, in place where it has them."""
    losses = arm.losses_of(batch.images, batch.labels, taps)
    arm.optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    arm.optimizer.step()
    for name, value in losses.items():
        if name in arm.running:
            arm.running[name].add_(value.detach())
        else:
            arm.running[name] = value.detach().clone()


def teacher_taps(teacher: SegmentationModel, images: Tensor, recipe: Recipe) -> Taps:
    """The teacher's pass, in its own precision; float32 out."""
    bf16 = torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.teacher_precision == "bf16")
    with torch.inference_mode(), bf16:
        taps = teacher.taps(images)
    # Copies, because losses cannot save what was made in inference mode for their backward.
    logits, *features = (maps.to(torch.float32, copy=True) for maps in (taps.logits, *taps.features.values()))
    return Taps(logits, dict(zip(taps.features, features, strict=True)))


def cloned(taps: Taps) -> Taps:
    return Taps(taps.logits.clone(), {level: maps.clone() for level, maps in taps.features.items()})


def snapshot(arm: Arm) -> dict[str, Any]:
    """Copies of all that a step changes."""
    return {
        "tensors": [tensor.detach().clone() for tensor in arm.objective.state_dict().values()],
        "optimizer": {
            parameter: {name: value.clone() for name, value in state.items()}
            for parameter, state in arm.optimizer.state.items()
        },
        "running": {name: value.clone() for name, value in arm.running.items()},
    }


def restore(arm: Arm, before: dict[str, Any]) -> None:
    """Put a snapshot back into the very tensors that a graph has recorded."""
    with torch.no_grad():
        for tensor, kept in zip(arm.objective.state_dict().values(), before["tensors"], strict=True):
            tensor.copy_(kept)
        for parameter, state in arm.optimizer.state.items():
            kept_state = before["optimizer"].get(parameter, {})
            for name, value in state.items():
                # An optimizer that has not made a step counts none and has no moments.
                value.copy_(kept_state[name]) if name in kept_state else value.zero_()
        for name, value in arm.running.items():
            value.zero_() if name not in before["running"] else value.copy_(before["running"][name])
