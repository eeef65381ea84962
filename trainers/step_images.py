"""What a step holds where there are images without labels: said at the start, and recorded."""

from __future__ import annotations

from typing import Any

from kdbench.data.unlabelled import ImagesWithoutLabels
from trainers.batches import TrainingBatches
from trainers.processes import is_main


def say_steps(methods: tuple[str, ...], batches: TrainingBatches) -> None:
    """One line: how many images without labels there are, and what a step holds."""
    if is_main():
        held = batches.step_images
        print(
            f"{', '.join(methods)}: {len(batches.labelled)} images with labels and "
            f"{len(batches.indices) - len(batches.labelled)} without, of which the teacher's opinion is learnt; a step "
            f"of {batches.batch_size} images holds {held['labelled']:.1f} with labels and {held['unlabelled']:.1f} "
            f"without, mean; an epoch has {batches.steps_per_epoch} steps, the baseline's too"
        )


def labelled_fields(batches: TrainingBatches, unlabelled: ImagesWithoutLabels | None) -> dict[str, Any]:
    """What a sidecar says of a training on few labels or beside images without any; nothing of another."""
    if batches.recipe.labelled == 1 and unlabelled is None:
        return {}
    names = {"labelled": batches.labelled_names} if batches.recipe.labelled != 1 else {}
    return {
        "labelled_images": len(batches.labelled), "unlabelled_images": len(batches.indices) - len(batches.labelled),
        "step_images": batches.step_images, **names,
    }  # fmt: skip
