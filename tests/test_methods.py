"""A method in training: which losses it has, what gradients reach, and what must not move."""

import sys
from types import SimpleNamespace

import pytest
import torch

from kdbench.errors import BadInput
from kdbench.methods.base import (
    METHODS,
    Method,
    RecipeField,
    Style,
    Term,
    all_methods,
    distilled_methods,
    recipe_fields,
    student_methods,
    title_of,
)
from kdbench.models.registry import build_model
from kdbench.models.segmentation import parameter_count
from kdbench.models.student import Student
from kdbench.progress import Bar
from trainers.arm import Arm, make_optimizer
from trainers.batches import Batch
from trainers.loop import train_epoch
from trainers.losses import cross_entropy
from trainers.methods import Objective, logit_shift, loss_of, needs_teacher
from trainers.recipe import Recipe, load_recipe
from trainers.steps import Steps, teacher_taps

CLASSES = 5
DISTILLED = distilled_methods()
STYLE = Style("#117733", "-", "h")


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
        ("cwd", {"ce", "cwd"}),
        ("dist", {"ce", "dist"}),
        ("imitation", {"ce", "response"}),
        ("baseline-long", {"ce"}),
        ("teacher", {"ce"}),
    ],
)
def test_loss_is_the_weighted_sum_of_the_methods_terms(method, terms, teacher, batch):
    weights = {"ce": 0.5, "response": 3.0, "feature": 7.0, "cwd": 11.0, "dist": 13.0}
    fields = {"alpha": 0.5, "beta": 3.0, "gamma": 7.0, "cwd_weight": 11.0, "dist_weight": 13.0}
    recipe = load_recipe("shapes", fields)
    images, labels = batch
    losses = objective(method, teacher, recipe)(images, labels, teacher_taps(teacher, images, recipe))
    assert losses.keys() == {"loss", *terms}
    if method == "imitation":
        weights["ce"] = 0.0
    torch.testing.assert_close(losses["loss"], sum(weights[name] * losses[name] for name in terms))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_weighted_cross_entropy_is_least_where_the_adjustment_says(share):
    """The best constant logits, found by minimising the loss, are log p + (1 − share) · log w but for a constant."""
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10).reshape(1, 10, 10)
    weights = torch.tensor([0.3, 1.0, 4.0, 0.0])  # the last is in no label
    logits = torch.zeros(1, 4, 1, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        adjusted = logits + logit_shift(weights, share)
        loss = cross_entropy(adjusted.expand(1, 4, 10, 10), labels, weights)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = logits.detach().flatten()[:3]
    expected = torch.tensor([0.7, 0.2, 0.1]).log() + (1 - share) * weights[:3].log()
    assert torch.allclose(found - found.mean(), expected - expected.mean(), atol=1e-3)


def test_the_recipes_adjustment_reaches_cross_entropy_alone(teacher, batch):
    images, labels = batch
    weights = torch.linspace(0.2, 5, CLASSES)
    got = {}
    for share in (0.0, 0.5):
        recipe = load_recipe("shapes", {"class_weights": True, "logit_adjustment": share})
        torch.manual_seed(0)
        model = Objective(Student(CLASSES), "response", recipe, teacher.tap_channels, weights).eval()
        got[share] = model(images, labels, teacher_taps(teacher, images, recipe))
        logits = model.model.taps(images).logits
    assert got[0.5]["response"] == got[0.0]["response"]
    assert got[0.0]["ce"] == cross_entropy(logits, labels, weights)
    shifted = logits + 0.5 * weights.log()[:, None, None]
    assert torch.allclose(got[0.5]["ce"], cross_entropy(shifted, labels, weights))


def test_a_term_of_weight_zero_is_not_computed(teacher, batch):
    images, labels = batch
    recipe = load_recipe("shapes", {"gamma": 0.0})
    training = objective("combined", teacher, recipe)
    assert training.adapters is None
    assert training(images, labels, teacher_taps(teacher, images, recipe)).keys() == {"loss", "ce", "response"}


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        ("response", "temperature", 1.5), ("response", "kl_reduction", "batchmean"),
        ("feature", "feature_loss", "pearson"), ("cwd", "cwd_temperature", 1.5), ("dist", "dist_temperature", 3.0),
    ],
)  # fmt: skip
def test_the_recipes_fields_reach_their_term(method, field, value, teacher, batch):
    images, labels = batch
    taps = teacher_taps(teacher, images, Recipe())
    taps = taps._replace(logits=20 * taps.logits)  # sure of itself: T² undoes T on logits near uniform
    default, changed = (
        objective(method, teacher, Recipe.model_validate(fields))(images, labels, taps)[method].item()
        for fields in ({}, {field: value})
    )
    assert abs(changed - default) > 0.001 * default


@pytest.mark.parametrize("method", DISTILLED)
def test_gradients_reach_student_and_adapters_and_never_the_teacher(method, teacher, batch):
    """The teacher's parameters ask for gradients here, so that it is the pass itself that must withhold them."""
    images, labels = batch
    training = objective(method, teacher)
    teacher.requires_grad_(True)
    try:
        training(images, labels, teacher_taps(teacher, images, training.recipe))["loss"].backward()
        assert all(p.grad is None for p in teacher.parameters())
    finally:
        teacher.requires_grad_(False)
    without = [name for name, p in training.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
    assert (training.adapters is not None) == (method in ("feature", "combined"))


@pytest.mark.parametrize("method", DISTILLED)
def test_the_term_alone_moves_the_student(method, teacher, batch):
    """With α = 0 nothing but distillation is left: in a few steps it comes down."""
    images, labels = batch
    recipe = load_recipe("shapes", {"alpha": 0.0})
    training = objective(method, teacher, recipe)
    optimizer = make_optimizer(training, recipe)
    taps = teacher_taps(teacher, images, recipe)
    values = []
    for _ in range(6):
        losses = training(images, labels, taps)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        values.append(losses["loss"].item())
    assert values[-1] < 0.95 * values[0]


@pytest.mark.parametrize("method", DISTILLED)
def test_an_epoch_moves_the_student_and_neither_weights_nor_statistics_of_the_teacher(method, teacher, batch, tmp_path):
    training = objective(method, teacher)
    arm = Arm(method, training, training.recipe, tmp_path / "student.safetensors", {}, steps_per_epoch=2)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = {name: value.clone() for name, value in training.model.state_dict().items()}
    given = Batch(*batch, batch[0])
    batches = SimpleNamespace(steps_per_epoch=2, epoch=lambda epoch: iter([given, given]))
    train_epoch([arm], Steps([arm], teacher), batches, 0, Bar("", None, None))
    assert not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    moved = [name for name, value in training.model.state_dict().items() if not torch.equal(value, student[name])]
    assert {name for name in student if "running_mean" in name} <= set(moved)
    assert arm.seconds > 0


def test_adapters_are_in_the_optimizer_but_not_in_the_student(teacher):
    training = objective("feature", teacher)
    held = {id(p) for group in make_optimizer(training, training.recipe).param_groups for p in group["params"]}
    assert all(id(p) in held for p in training.adapters.parameters())
    assert parameter_count(training.model) == parameter_count(Student(CLASSES))
    assert not [name for name in training.model.state_dict() if "adapter" in name]


def test_every_method_starts_from_the_same_student(teacher):
    states = [objective(m, teacher).model.state_dict() for m in student_methods()]
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in states[0])


def test_no_weight_decay_on_batchnorm_and_biases(teacher):
    groups = make_optimizer(objective("baseline", teacher), Recipe(weight_decay=0.1)).param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])


def test_every_method_is_a_card_with_a_loss_for_each_term():
    for method in METHODS:
        card = sys.modules[f"kdbench.methods.{method.name.replace('-', '_')}"].__doc__
        for said in ("What it does:", "When it helps:", "What it costs:", *["Paper"] * method.distils):
            assert said in card, method.name
        assert len(method.help) < 70
        for term in method.terms:
            assert callable(loss_of(term))
            assert {term.weight.name, *(field.name for field in term.fields)} <= Recipe.model_fields.keys()


def test_what_a_name_stands_for():
    kept = ["baseline", "response", "feature", "combined", "cwd", "dist", "imitation", "baseline-long", "teacher"]
    assert [name for name in METHODS.names() if name in kept] == kept  # the order of tables
    assert student_methods() == METHODS.names()[:-1]
    assert all_methods() == ("baseline", "response", "feature", "combined", "teacher")
    assert [method.name for method in METHODS if method.time_matched] == ["baseline-long"]
    assert (title_of("cwd"), title_of("nobody's")) == ("Channel-Wise (CWD)", "nobody's")


def term(name="mse", field="mse_weight", **fields):
    return Term(name, name, STYLE, RecipeField(field, 1.0, "weight of it"), loss="nowhere:at_all", **fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"title": "A title of 24 characters"},
            "title: got 'A title of 24 characters' of 24 letters, expected 1 to 23",
        ),
        ({"title": ""}, "title: got '' of 0 letters"),
        ({"terms": (term("ce"),)}, "a term is named 'ce', which another column of the history is: give it another"),
        ({"terms": (term(), term())}, "a term is named 'mse', which another column"),
    ],
)
def test_a_declaration_that_could_not_be_shown_is_refused(fields, said):
    with pytest.raises(BadInput, match=f"method 'mse': {said}"):
        Method(**{"name": "mse", "title": "MSE", "help": "", "style": STYLE, **fields})


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (term("response"), "declares the term 'response' otherwise than another method does"),
        (term(field="beta"), "term 'mse' declares the recipe's field 'beta' otherwise than another term does"),
    ],
)
def test_two_things_of_one_name_are_refused(declared, said, monkeypatch):
    monkeypatch.setitem(METHODS._items, "mse", Method("mse", "MSE", "", STYLE, terms=(declared,)))
    with pytest.raises(BadInput, match=said):
        recipe_fields()


def test_baselines_need_no_teacher():
    assert [name for name in METHODS.names() if not needs_teacher(name)] == ["baseline", "baseline-long", "teacher"]
