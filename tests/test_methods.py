"""A method in training: which losses it has, what gradients reach, and what must not move."""

import pytest
import torch

from kdbench.models.deploy import build_model
from kdbench.models.segmentation import parameter_count
from kdbench.models.student import Student
from trainers.arm import make_optimizer
from trainers.loop import teacher_taps
from trainers.methods import Objective
from trainers.recipe import Recipe, load_recipe

CLASSES = 5


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(1)
    return build_model("fpn_resnet18", CLASSES).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 3, 64, 64, generator=generator), torch.randint(0, CLASSES, (2, 64, 64), generator=generator)


def objective(method, teacher, recipe=None):
    torch.manual_seed(0)
    return Objective(Student(CLASSES), method, recipe or load_recipe("shapes", {}), teacher.tap_channels)


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("baseline", {"ce"}),
        ("response", {"ce", "response"}),
        ("feature", {"ce", "feature"}),
        ("combined", {"ce", "response", "feature"}),
    ],
)
def test_loss_is_the_weighted_sum_of_the_methods_terms(method, terms, teacher, batch):
    recipe = load_recipe("shapes", {"alpha": 0.5, "beta": 3.0, "gamma": 7.0})
    images, labels = batch
    losses = objective(method, teacher, recipe)(images, labels, teacher_taps(teacher, images, recipe))
    assert losses.keys() == {"loss", *terms}
    weights = {"ce": 0.5, "response": 3.0, "feature": 7.0}
    torch.testing.assert_close(losses["loss"], sum(weights[name] * losses[name] for name in terms))


def test_gradients_reach_student_and_adapters_and_never_the_teacher(teacher, batch):
    images, labels = batch
    training = objective("combined", teacher)
    training(images, labels, teacher_taps(teacher, images, training.recipe))["loss"].backward()
    without = [name for name, p in training.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
    assert all(p.grad is None for p in teacher.parameters())


def test_teachers_state_does_not_move_in_a_step(teacher, batch):
    images, labels = batch
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    training = objective("feature", teacher)
    optimizer = make_optimizer(training, training.recipe)
    for _ in range(2):
        training(images, labels, teacher_taps(teacher, images, training.recipe))["loss"].backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_adapters_are_in_the_optimizer_but_not_in_the_student(teacher):
    training = objective("feature", teacher)
    held = {id(p) for group in make_optimizer(training, training.recipe).param_groups for p in group["params"]}
    assert all(id(p) in held for p in training.adapters.parameters())
    assert parameter_count(training.model) == parameter_count(Student(CLASSES))
    assert not [name for name in training.model.state_dict() if "adapter" in name]


def test_every_method_starts_from_the_same_student(teacher):
    states = [objective(m, teacher).model.state_dict() for m in ("baseline", "response", "feature", "combined")]
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in states[0])


def test_no_weight_decay_on_batchnorm_and_biases(teacher):
    groups = make_optimizer(objective("baseline", teacher), Recipe(weight_decay=0.1)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
