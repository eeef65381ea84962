"""What ``--resume`` finds done: whether a checkpoint is the end of just this training."""

from __future__ import annotations

import sys

from kdbench.errors import BadInput, KdbenchError
from kdbench.runs.folder import at_its_end
from kdbench.runs.sidecar import read_training_sidecar
from kdbench.runs.tree import sidecar_path
from trainers.arm import WORDS, Arm, differing, training_data
from trainers.processes import is_main


def is_finished(arm: Arm, overwrite: bool) -> bool:
    """Whether the arm's checkpoint is there, whole, and the last epoch of just this training; else says why not.

    Raises:
        BadInput: it is the last epoch of another training, which ``overwrite`` would allow to be lost.
    """
    if not arm.checkpoint.exists():
        return False
    try:
        sidecar = read_training_sidecar(sidecar_path(arm.checkpoint), "kdbench train")
    except KdbenchError as error:
        train_anew(str(error))
        return False
    was, now = training_data(sidecar), training_data(arm.about)
    changed = arm.recipe.changes_since(sidecar["recipe"]) + [WORDS.get(key, key) for key in differing(was, now)]
    if changed and not overwrite and at_its_end(sidecar):
        raise BadInput(
            f"--resume: '{arm.checkpoint}' was finished with other {', '.join(changed)}: add --overwrite to train it "
            "anew, or name another --runs"
        )
    if changed:
        reason = f"was made with other {', '.join(changed)}"
    elif not at_its_end(sidecar):
        reason = f"stopped at epoch {sidecar['epoch']} of {sidecar['epochs']}, and its state is gone"
    elif not arm.folder.is_whole(sidecar):
        reason = "is not the file that its sidecar describes"
    else:
        return True
    train_anew(f"'{arm.checkpoint}' {reason}")
    return False


def train_anew(reason: str) -> None:
    if is_main():
        print(f"kdbench: {reason}: training anew", file=sys.stderr)
