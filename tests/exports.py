"""What the tests of exports share: a student whose masks have many classes, and jobs on real images."""

from __future__ import annotations

import json

import numpy as np
import torch

from exporters.export_job import ExportJob
from exporters.to_tensorrt import AHEAD_OF_TIME
from kdbench.data.shapes import Shapes
from kdbench.machine.environment import environment
from kdbench.models.registry import build_model
from kdbench.models.segmentation import parameter_count
from kdbench.runs.checkpoints import save_checkpoint
from kdbench.runs.files import sha256, write_json
from kdbench.runs.tree import sidecar_path

SIZE = (96, 128)
OUTPUTS = ("mask", "logits")


def make_student(tree, method, seed, arch="student"):
    """A student with BatchNorm statistics of real images, so that its masks have many classes."""
    scenes = Shapes("train")
    torch.manual_seed(seed)
    model = build_model(arch, 10).train()
    images = torch.from_numpy(np.stack([scenes[i].image for i in range(8)])).permute(0, 3, 1, 2) / 255.0 - 0.5
    with torch.no_grad():
        for _ in range(20):
            model(4 * images)
    save_student(tree, method, model, arch)


def save_student(tree, method, model, arch="student"):
    scenes = Shapes("train")
    about = {
        "kind": "checkpoint", "method": method, "arch": arch, "dataset": "shapes", "data_root": None,
        "classes": list(scenes.classes), "palette": [list(c) for c in scenes.palette], "size": list(SIZE),
        "seed": 0, "epoch": 1, "epochs": 1, "params": parameter_count(model),
        "recipe": {}, "steps": 1, "miou": 0.0, "train_images": 8, "train_seconds": 1.0,
        "environment": environment(),
    }  # fmt: skip
    save_checkpoint(tree.checkpoint(method), model.state_dict(), about)


def make_job(tree, method="baseline", output="mask", **options):
    """An export job on 4 validation images, calibrated on 8 training images."""
    options = {"samples": [Shapes("val")[i] for i in range(4)], **options}
    options.setdefault("capabilities", AHEAD_OF_TIME)  # named: beside a GPU that TensorRT for RTX does not run on too
    options.setdefault("calibration", [Shapes("train")[i].image for i in range(8)])
    return ExportJob(tree, method, output, **options)


def edit_sidecar(artifact, **changes):
    """Change fields of a sidecar; None takes a field away. The hash follows the file, and the seal is gone."""
    about = {**read_unsealed(sidecar_path(artifact)), "sha256": sha256(artifact), **changes}
    write_json(sidecar_path(artifact), {key: value for key, value in about.items() if value is not None})


def read_unsealed(sidecar):
    """What a sidecar says, to be written with other fields."""
    about = json.loads(sidecar.read_text())
    about.pop("seal", None)
    return about
