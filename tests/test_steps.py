"""Steps of training: what recording undoes, and on a GPU that recorded steps train as launched ones do."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from kdbench.methods.base import distilled_methods
from kdbench.models.registry import build_model
from trainers.arm import Arm
from trainers.batches import Batch
from trainers.methods import Objective
from trainers.recipe import Recipe
from trainers.steps import GraphSteps, Steps, arm_step, make_steps, restore, snapshot, teacher_taps

CLASSES = 5
METHODS = ("baseline", *distilled_methods())


def make_batch(seed, device="cpu", size=(2, 64, 64)):
    generator = torch.Generator().manual_seed(seed)
    n, height, width = size
    images = torch.randn(n, 3, height, width, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, size, generator=generator)
    labels[0, :8] = 255
    labels[1] = 254
    return Batch(images.to(device), labels.to(device), images.to(device))


def make_arms(folder, methods, recipe, device="cpu"):
    torch.manual_seed(1)
    teacher = build_model("fpn_resnet18", CLASSES).eval().requires_grad_(False)
    teacher.to(device, memory_format=torch.channels_last)
    weights = torch.tensor([0.5, 1.0, 2.0, 1.0, 5.0])
    arms = []
    for method in methods:
        torch.manual_seed(0)
        objective = Objective(build_model("student", CLASSES), method, recipe, teacher.tap_channels, weights)
        objective.to(device, memory_format=torch.channels_last)
        arms.append(Arm(method, objective, recipe, folder / method / "student.safetensors", {}, 4))
    return arms, teacher


def tensors(arm):
    return {name: value.clone() for name, value in arm.objective.state_dict().items()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_steps_between_snapshot_and_restore_leave_nothing_behind(tmp_path, optimizer, steps_before):
    """Recording makes steps to warm up; training after it must go as if they had not been."""
    recipe = Recipe(size=(64, 64), optimizer=optimizer)
    [undone], _ = make_arms(tmp_path, ("baseline",), recipe)
    [plain], _ = make_arms(tmp_path, ("baseline",), recipe)
    for arm in (undone, plain):
        for step in range(steps_before):
            arm_step(arm, make_batch(step), None)
    before = snapshot(undone)
    for step in range(3):
        arm_step(undone, make_batch(10 + step), None)
    restore(undone, before)
    for arm in (undone, plain):
        for step in range(2):
            arm_step(arm, make_batch(20 + step), None)
    for name, value in tensors(plain).items():
        torch.testing.assert_close(tensors(undone)[name], value, msg=name)
    torch.testing.assert_close(undone.running["loss"], plain.running["loss"])


def test_on_the_cpu_steps_are_launched(tmp_path):
    class Batches:
        device = torch.device("cpu")

    arms, teacher = make_arms(tmp_path, ("baseline",), Recipe(size=(64, 64)))
    assert type(make_steps(arms, teacher, Batches())) is Steps


def test_where_recording_fails_steps_are_launched_and_one_line_says_so(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("operation not permitted when\nstream is capturing")

    class Batches:
        device = torch.device("cuda")

        def epoch(self, epoch):
            return iter([make_batch(0)])

    arms, teacher = make_arms(tmp_path, ("baseline",), Recipe(size=(64, 64)))
    monkeypatch.setattr(sys.modules["trainers.steps"], "GraphSteps", fail)
    assert type(make_steps(arms, teacher, Batches())) is Steps
    assert capsys.readouterr().err == (
        "kdbench: steps are launched one by one, as they cannot be a CUDA graph: "
        "operation not permitted when stream is capturing\n"
    )


@pytest.mark.parametrize("method", METHODS)
def test_no_loss_makes_a_tensor_of_a_size_that_depends_on_the_data(tmp_path, method):
    """What a CUDA graph cannot hold shows on the meta device, which has shapes and no values."""
    recipe = Recipe(size=(64, 64))
    [arm], teacher = make_arms(tmp_path, (method,), recipe)
    objective, teacher = copy.deepcopy(arm.objective).to("meta"), copy.deepcopy(teacher).to("meta")
    batch = make_batch(0)
    images, labels = batch.images.to("meta"), batch.labels.to("meta")
    taps = objective.model.taps(images)
    if objective.adapters is not None:
        taps = taps._replace(features={level: objective.adapters[level](m) for level, m in taps.features.items()})
    losses = objective.losses(taps, labels, teacher.taps(images))
    losses["loss"].backward()
    assert losses["loss"].shape == ()


def test_images_without_labels_teach_distilled_arms_alone(tmp_path):
    """Gradients of a batch of 254s: none by cross-entropy, some by every term."""
    blind = make_batch(3)
    blind.labels.fill_(254)
    for method in METHODS:
        [arm], teacher = make_arms(tmp_path, (method,), Recipe(size=(64, 64)))
        losses = arm.objective(
            blind.images, blind.labels, teacher.taps(blind.images) if method in distilled_methods() else None
        )
        assert losses["ce"].item() == 0
        losses["loss"].backward()
        moved = sum(p.grad.abs().sum().item() for p in arm.objective.model.parameters() if p.grad is not None)
        assert (moved > 0) == (method in distilled_methods()), method


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_train_as_launched_ones(tmp_path, precision):
    """Two steps of every method: losses and statistics agree within the rounding of the precision.

    Not more: sums come in another order (atomics of upsampling's backward), and Adam's first steps amplify it.
    """
    recipe = Recipe(size=(64, 64), batch_size=4, precision=precision, teacher_precision=precision, warmup_steps=3)
    batches = [make_batch(seed, "cuda", (4, 64, 64)) for seed in range(2)]
    results = []
    for kind in (Steps, GraphSteps):
        arms, teacher = make_arms(tmp_path, METHODS, recipe, "cuda")
        steps = (
            GraphSteps(arms, teacher, make_batch(9, "cuda", (4, 64, 64)))
            if kind is GraphSteps
            else Steps(arms, teacher)
        )
        for batch in batches:
            steps.run(arms, batch)
        torch.cuda.synchronize()
        steps.settle()
        assert all(arm.seconds > 0 for arm in arms)
        results.append({arm.method: (arm.running, tensors(arm)) for arm in arms})
    launched, recorded = results
    tolerance = {"fp32": 5e-3, "bf16": 5e-2}[precision]
    for method in METHODS:
        for name, value in launched[method][0].items():
            torch.testing.assert_close(
                recorded[method][0][name], value, rtol=tolerance, atol=1e-3, msg=f"{method} {name}"
            )
        statistics = [name for name in launched[method][1] if name.endswith("running_mean")]
        for name in statistics[:5]:
            torch.testing.assert_close(
                recorded[method][1][name],
                launched[method][1][name],
                rtol=tolerance,
                atol=tolerance,
                msg=f"{method} {name}",
            )
        counts = [value for name, value in recorded[method][1].items() if name.endswith("num_batches_tracked")]
        assert all(count == len(batches) for count in counts)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_taps_that_come_with_the_batch_teach_as_the_teacher_does(tmp_path, device):
    """Of views made once; on a GPU by recorded steps."""
    recipe = Recipe(size=(64, 64), batch_size=4, precision="fp32", teacher_precision="fp32", warmup_steps=3)
    size, results = (4, 64, 64), []
    for taught_before in (False, True):
        arms, teacher = make_arms(tmp_path, METHODS, recipe, device)
        batches = [make_batch(seed, device, size) for seed in range(3)]
        if taught_before:
            batches = [batch._replace(taps=teacher_taps(teacher, batch.view, recipe)) for batch in batches]
        asked = None if taught_before else teacher
        steps = GraphSteps(arms, asked, batches.pop()) if device == "cuda" else Steps(arms, asked)
        for batch in batches[:2]:
            steps.run(arms, batch)
        steps.settle()
        results.append({arm.method: arm.running for arm in arms})
    for method in METHODS:
        for name, value in results[0][method].items():
            torch.testing.assert_close(results[1][method][name], value, rtol=5e-3, atol=1e-3, msg=f"{method} {name}")
