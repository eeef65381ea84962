"""Training in several processes: which one this is, sums over all of them, and models that stay equal in each.

``torchrun`` or ``accelerate launch`` start the processes; Accelerate reads what they were told and joins them. Each
takes its rows of every batch. Losses and BatchNorm statistics are sums over all processes, so every process has the
loss of the whole batch, and training is what one process would do with that batch. Without a launcher there is one
process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdbench.data import Sample, SegmentationDataset
from kdbench.errors import BadInput
from kdbench.machine.cores import cores
from kdbench.models.pixels import total


@contextmanager
def joined_processes(device: str) -> Iterator[torch.device]:
    """Join the other processes, if a launcher started any, and yield this one's device.

    Inside of such a block another one changes nothing: Accelerate joins a process to the others once in its life.

    Args:
        device: cpu or cuda; with several GPUs each process gets its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield torch.device(device)
        return
    from accelerate import PartialState

    inside = dist.is_initialized()
    state = PartialState(cpu=device == "cpu")
    yield state.device
    # Only at a good end: after an error the others may be waiting for this one, and the launcher stops them.
    if not inside:
        state.destroy_process_group()


def launcher_precision() -> str | None:
    """What ``accelerate launch --mixed_precision`` asked for, as a recipe's precision; None when it did not.

    Raises:
        BadInput: a precision that would need a gradient scaler, or special hardware.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", "bf16"):
        raise BadInput(f"accelerate launch --mixed_precision: got '{asked}', expected no or bf16: use bf16")
    return asked if asked == "bf16" else None


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the one process that writes files."""
    return rank() == 0


def wait_for_all() -> None:
    """Return when every process is here, so that what the main one wrote can be read."""
    if dist.is_initialized():
        dist.barrier()


def wrap(module: nn.Module) -> nn.Module:
    """The module, averaging gradients over the processes.

    Each process computes the loss L of the whole batch, and ``total`` hands every process the sum of the gradients
    of those equal losses: world size times dL. The average over processes is then just dL.
    """
    if world_size() == 1:
        return module
    # A term of weight 0 leaves parameters without gradients, but the same ones in every step.
    return nn.parallel.DistributedDataParallel(module, static_graph=True)


def share_batchnorm(module: nn.Module) -> None:
    """Replace each BatchNorm inside by one whose statistics are of the whole batch.

    Parameters stay what they are, and so does what a BatchNorm does beyond normalising.

    Raises:
        BadInput: a BatchNorm does something that is not known.
    """
    if world_size() == 1:
        return
    from kdbench.models.fused import beyond_normalising  # here, because it imports torchvision

    norms = [(n, m) for n, m in module.named_modules(remove_duplicate=False) if isinstance(m, nn.BatchNorm2d)]
    for name, norm in norms:
        rest = beyond_normalising(norm)
        if rest is None:
            raise BadInput(
                f"module '{name}': got the BatchNorm {type(norm).__name__}, expected nn.BatchNorm2d or timm's "
                "BatchNormAct2d, whose statistics several processes can share: train in one process"
            )
        shared = with_shared_statistics(norm)
        if not isinstance(rest, nn.Identity):
            shared.register_forward_hook(partial(_go_on, rest))
        module.set_submodule(name, shared)


def with_shared_statistics(norm: nn.BatchNorm2d) -> nn.Module:
    """One that normalises alone, and has the parameters, the buffers and the parts of ``norm``."""
    if any(kept.device.type != "cpu" for kept in (*norm.parameters(), *norm.buffers())):
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    shared = SharedBatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, device="meta")
    shared._parameters, shared._buffers, shared._modules = norm._parameters, norm._buffers, norm._modules
    return shared.train(norm.training)


def _go_on(rest: nn.Module, norm: nn.Module, inputs: object, output: Tensor) -> Any:
    return rest(output)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batch of all processes, on the CPU, which ``nn.SyncBatchNorm`` does not support."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        values = input.float() if self.running_mean is None else input.to(self.running_mean.dtype)
        count = total(torch.tensor(float(values.numel() / values.shape[1])))
        mean = total(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = total(centred.square().sum((0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), momentum)
        factor = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return (centred * factor[:, None, None]).to(input.dtype)
        scaled = centred * (factor * self.weight)[:, None, None] + self.bias[:, None, None]
        return scaled.to(input.dtype)


class Part(SegmentationDataset):
    """Every ``world_size()``-th sample of a split, from ``rank()`` on; the parts of all processes make the split."""

    def __init__(self, whole: SegmentationDataset) -> None:
        super().__init__(whole.name, whole.split, whole.classes, whole.palette)
        self._whole = whole
        self.indices = range(rank(), len(whole), world_size())

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self._whole[self.indices[index]]


def from_main(value: dict[str, Any]) -> dict[str, Any]:
    """The main process's, in each of them."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def use_cores() -> None:
    """Let PyTorch have no more threads than there are cores for it, as which it does not count a container's quota."""
    number, source = cores()
    torch.set_num_threads(number if source == "--threads" else min(number, torch.get_num_threads()))
