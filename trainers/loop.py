"""The training loop: one teacher pass serves every arm, and an arm is a model, its losses and its optimizer.

Arms trained side by side see the same batches in the same order by construction, and share nothing else, so each ends
with the weights that it would have had alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from kdbench.backends.torch_eager import TorchBackend
from kdbench.comparison.evaluate import Evaluation, evaluate
from kdbench.data import SegmentationDataset
from kdbench.errors import BadInput, RunFailed
from kdbench.models.pixels import total
from kdbench.models.segmentation import SegmentationModel, parameter_count
from kdbench.progress import Bar, progress_bar
from kdbench.runs.checkpoints import save_checkpoint
from trainers.arm import Arm
from trainers.batches import TrainingBatches
from trainers.processes import Part, is_main, rank, wait_for_all
from trainers.recipe import Recipe
from trainers.steps import Steps, make_steps

SAVE_SECONDS = 5
"""Where epochs take less, a GPU would wait for the disk: an interrupted run then repeats the epochs of this time."""
CHECK_EVERY = 10
"""Steps between looks at the running loss: reading it waits for the device."""


def train_arms(
    arms: list[Arm],
    teacher: SegmentationModel | None,
    batches: TrainingBatches,
    validation: SegmentationDataset,
    title: str,
) -> None:
    """Train every arm to its recipe's last epoch, validating, logging and saving on the way.

    Of several processes, each trains on its rows of every batch, and one writes.

    Args:
        arms: with the same number of epochs; an arm that was resumed further on waits for the others.
        teacher: in eval mode on the batches' device, or None when no arm reads it.

    Raises:
        RunFailed: a loss became NaN or infinite, or memory ran out; checkpoints of earlier epochs are kept.
    """
    recipe = arms[0].recipe
    first = min(arm.epochs_done for arm in arms)
    for arm in arms:
        if is_main():
            arm.open_logs()
    with progress_bar(title, (recipe.epochs - first) * batches.steps_per_epoch) as bar:
        with out_of_memory_advice(recipe):
            steps = make_steps(arms, teacher, batches)
        for epoch in range(first, recipe.epochs):
            active = [arm for arm in arms if arm.epochs_done == epoch]
            train_epoch(active, steps, batches, epoch, bar)
            last = epoch + 1 == recipe.epochs
            for arm in active:
                finish_epoch(arm, validation if last or (epoch + 1) % recipe.validate_every == 0 else None)
    for arm in arms:
        if is_main():
            arm.tensorboard.close()
            arm.state_file.unlink(missing_ok=True)
    wait_for_all()


def train_epoch(arms: list[Arm], steps: Steps, batches: TrainingBatches, epoch: int, bar: Bar) -> None:
    """One pass over the training images for every arm."""
    recipe = arms[0].recipe
    for arm in arms:
        arm.objective.train()
        for value in arm.running.values():
            value.zero_()
    with out_of_memory_advice(recipe):
        for step, batch in enumerate(batches.epoch(epoch), start=1):
            # For dropout, of which a resumed run must drop the same.
            steps.run(arms, batch, ((recipe.seed * 1_000_003 + epoch) * 100_003 + step) * 1_009 + rank())
            text = ""
            if step % CHECK_EVERY == 0 or step == batches.steps_per_epoch:
                steps.join()
                text = "  ".join(f"{arm.method} {running_loss(arm, epoch, step):.3f}" for arm in arms)
            bar.advance(1, f"epoch {epoch + 1}/{recipe.epochs}  loss {text}" if text else "")
    steps.settle()


def running_loss(arm: Arm, epoch: int, step: int) -> float:
    """Mean loss of the epoch so far.

    Raises:
        RunFailed: it is not finite.
    """
    mean = (arm.running["loss"] / step).item()
    if not math.isfinite(mean):
        kept = f"the checkpoint of epoch {arm.epochs_done} is kept" if arm.epochs_done else "no epoch was finished"
        raise RunFailed(
            f"{arm.method}: the loss became {mean} in epoch {epoch + 1}; {kept}: "
            f"try a lower --lr (was {arm.recipe.lr:g})"
            + (" or --kl-reduction pixel" if "response" in arm.running and arm.recipe.kl_reduction != "pixel" else "")
        )
    return mean


def finish_epoch(arm: Arm, validation: SegmentationDataset | None) -> None:
    """Count the epoch, validate where due, and write checkpoint, history and resume state."""
    arm.epochs_done += 1
    row: dict[str, Any] = {
        "epoch": arm.epochs_done,
        "lr": float(arm.optimizer.param_groups[0]["lr"]),
        **{name: value.item() / arm.steps_per_epoch for name, value in arm.running.items()},
        "miou": None,
        "seconds": round(arm.seconds, 3),
    }
    arm.rows.append(row)
    if validation is not None:
        result = validate(arm, validation)
        row["miou"] = result.miou
        if is_main():
            save_arm(arm, result)
    if is_main():
        log_to_tensorboard(arm, row)
        if validation is not None or time.monotonic() - arm.saved_at > SAVE_SECONDS:
            arm.write_history()
            arm.save_state()


def validate(arm: Arm, validation: SegmentationDataset) -> Evaluation:
    """mIoU of the arm as it would be deployed with ``--output mask``; the processes share the images."""
    device = next(arm.objective.parameters()).device
    result = evaluate(
        TorchBackend(arm.objective.model, output="mask", size=arm.recipe.size, device=str(device)), Part(validation)
    )
    counts = total(torch.from_numpy(result.confusions.sum(0, keepdims=True)).to(device))
    result.confusions = counts.cpu().numpy()
    if math.isnan(result.miou):
        raise BadInput(
            f"dataset '{validation.name}': its {validation.split} split has no labelled pixel, expected some to "
            "measure mIoU on: label it, or look at it with `kdbench data check`"
        )
    return result


def save_arm(arm: Arm, result: Evaluation) -> None:
    """Write the deployed checkpoint: the model alone, without adapters."""
    sidecar = {
        "kind": "checkpoint",
        "method": arm.method,
        **arm.about,
        "size": list(arm.recipe.size),
        "params": parameter_count(arm.objective.model),
        "recipe": arm.recipe.model_dump(mode="json"),
        "seed": arm.recipe.seed,
        "epoch": arm.epochs_done,
        "epochs": arm.recipe.epochs,
        "steps": arm.epochs_done * arm.steps_per_epoch,
        "miou": result.miou,
        "iou_per_class": [None if math.isnan(v) else v for v in result.iou_per_class],
        "train_seconds": round(arm.seconds, 3),
    }
    save_checkpoint(arm.checkpoint, arm.objective.model.state_dict(), sidecar)


def log_to_tensorboard(arm: Arm, row: dict[str, Any]) -> None:
    for name, value in row.items():
        if name not in ("epoch", "miou", "seconds"):
            arm.tensorboard.add_scalar(f"train/{name}", value, row["epoch"])
    if row["miou"] is not None:
        arm.tensorboard.add_scalar("val/miou", row["miou"], row["epoch"])
    arm.tensorboard.flush()


@contextmanager
def out_of_memory_advice(recipe: Recipe) -> Iterator[None]:
    """Turn the several ways in which torch runs out of memory into one line that says what to try."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            texts = ("not enough memory", "can't allocate memory", "out of memory")  # CPU: Windows, Linux; cuDNN
            if not any(text in str(error) for text in texts):
                raise
        smaller = recipe.batch_size // 2
        advice = f"try --batch-size {smaller}" if smaller > 1 else f"try a smaller size than {recipe.size}"
        raise RunFailed(
            f"out of memory with --batch-size {recipe.batch_size} at {recipe.size[0]}x{recipe.size[1]}; "
            f"finished epochs are kept: {advice}"
        ) from error
