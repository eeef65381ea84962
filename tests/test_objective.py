"""The weighted losses by value, on a network of two convolutions: what each term gets, and what its weight does."""

import pytest
import torch
from torch import nn

from kdbench.methods.base import METHODS, UNKNOWN, RecipeField, Term
from kdbench.models.segmentation import Taps
from trainers.adapters import make_adapters
from trainers.losses import channel_wise, cross_entropy, feature_cosine, feature_pearson, relations, response_kl
from trainers.methods import Objective, logit_shift, loss_of, needs_teacher
from trainers.recipe import Recipe

CLASSES = 3
TEACHER_CHANNELS = {"low": 4, "high": 6}


class Tiny(nn.Module):
    """Taps "low", "mid" and "high"; the teacher has no "mid"."""

    tap_channels = {"low": 2, "mid": 2, "high": 5}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 5, 1)
        self.head = nn.Conv2d(5, CLASSES, 1)

    def taps(self, images):
        low = self.low(images)
        high = self.high(low[..., ::2, ::2])
        return Taps(self.head(high), {"low": low, "mid": low, "high": high})


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 8, 8, generator=generator)
    labels = torch.randint(0, CLASSES, (2, 8, 8), generator=generator)
    labels[0, :3] = 255
    teacher = Taps(
        5 * torch.randn(2, CLASSES, 4, 4, generator=generator),
        {"low": torch.randn(2, 4, 8, 8, generator=generator), "high": torch.randn(2, 6, 4, 4, generator=generator)},
    )
    return images, labels, teacher


def made(method, class_weights=None, teacher_channels=TEACHER_CHANNELS, **fields):
    torch.manual_seed(0)
    return Objective(Tiny(), method, Recipe.model_validate(fields), teacher_channels, class_weights)


SETTINGS = {"temperature": 2.0, "cwd_temperature": 3.0, "dist_temperature": 1.5}


def features(distance):
    def of(objective, taps, teacher, labels):
        assert objective.adapters is not None
        pairs = [
            (objective.adapters[level](taps.features[level]), teacher.features[level]) for level in ("low", "high")
        ]
        return sum(distance(student, theirs, labels) for student, theirs in pairs) / 2

    return of


@pytest.mark.parametrize(
    ("method", "term", "weight", "fields", "expected"),
    [
        ("response", "response", "beta", {}, lambda _, s, t, y: response_kl(s.logits, t.logits, y, 2.0, "pixel")),
        ("imitation", "response", "beta", {"kl_reduction": "batchmean"},
         lambda _, s, t, y: response_kl(s.logits, t.logits, y, 2.0, "batchmean")),
        ("feature", "feature", "gamma", {"feature_loss": "cosine"}, features(feature_cosine)),
        ("feature", "feature", "gamma", {"feature_loss": "pearson"}, features(feature_pearson)),
        ("cwd", "cwd", "cwd_weight", {}, lambda _, s, t, y: channel_wise(s.logits, t.logits, y, 3.0)),
        ("dist", "dist", "dist_weight", {}, lambda _, s, t, y: relations(s.logits, t.logits, y, 1.5)),
    ],
)  # fmt: skip
def test_each_term_and_its_weight(batch, method, term, weight, fields, expected):
    images, labels, teacher = batch
    objective = made(method, **SETTINGS, **fields, **{weight: 7.0}, alpha=0.25)
    found = objective(images, labels, teacher)
    assert list(found) == ["loss", "ce", term]
    taps = objective.model.taps(images)
    torch.testing.assert_close(found["ce"], cross_entropy(taps.logits, labels))
    torch.testing.assert_close(found[term], expected(objective, taps, teacher, labels))
    alpha = 0.0 if method == "imitation" else 0.25
    torch.testing.assert_close(found["loss"], alpha * found["ce"] + 7 * found[term])
    # Without a teacher cross-entropy is all that there is.
    alone = objective(images, labels, None)
    assert list(alone) == ["loss", "ce"]
    torch.testing.assert_close(alone["loss"], alpha * found["ce"])


def test_adapters_are_of_the_levels_that_both_networks_have():
    objective = made("feature")
    assert objective.levels == ("low", "high")
    assert {level: [tuple(p.shape) for p in adapter.parameters()] for level, adapter in objective.adapters.items()} == {
        "low": [(4, 2, 1, 1), (4,), (4,)], "high": [(6, 5, 1, 1), (6,), (6,)],
    }  # fmt: skip
    assert made("response").adapters is None
    assert made("combined", gamma=0.0).adapters is None
    assert made("baseline", teacher_channels=None).levels == ()
    assert list(make_adapters({"low": 2}, {"low": 3}, ())) == []


def test_weights_of_classes_and_the_adjustment(batch):
    images, labels, _ = batch
    weights = torch.tensor([0.5, 2.0, 4.0])
    for share in (0.0, 0.5):
        objective = made("baseline", weights, logit_adjustment=share)
        logits = objective.model.taps(images).logits
        shifted = logits + share * weights.log().view(1, 3, 1, 1)
        torch.testing.assert_close(objective(images, labels, None)["ce"], cross_entropy(shifted, labels, weights))
        assert (objective.shift is None) == (share == 0)
    assert made("baseline", None, logit_adjustment=0.5).shift is None
    # Part of no checkpoint, and moved with the module all the same.
    state = made("baseline", weights, logit_adjustment=0.5)
    assert {name.split(".")[0] for name in state.state_dict()} == {"model"}
    assert {name for name, _ in state.named_buffers()} == {"class_weights", "shift"}


def test_the_shift_by_hand():
    found = logit_shift(torch.tensor([0.0, 1.0, torch.e, torch.e**2]), 0.5)
    assert found.shape == (4, 1, 1)
    assert found.flatten().tolist() == pytest.approx([0, 0, 0.5, 1.0])
    assert logit_shift(torch.tensor([0.25]), 1.0).item() == pytest.approx(-1.3862944)


@pytest.fixture
def half_by_default():
    """float16 where none is named, as on a GPU."""
    before = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)
    yield
    torch.set_autocast_dtype("cpu", before)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_pass_and_the_adapters_run_in_the_recipes_precision(batch, half_by_default, precision, dtype):
    images, labels, teacher = batch
    seen = []
    objective = made("feature", precision=precision)
    for module in (objective.model.head, objective.adapters["low"][0]):
        module.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    found = objective(images, labels, teacher)
    assert seen == [dtype, dtype]
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_a_terms_loss_is_a_function_or_the_path_of_one():
    def term(loss):
        return Term("x", "x", UNKNOWN, RecipeField("x", 1.0, ""), loss)

    assert loss_of(term(feature_cosine)) is feature_cosine
    assert loss_of(term("trainers.losses:feature_cosine")) is feature_cosine
    assert {name for name in METHODS.names() if not needs_teacher(name)} == {"baseline", "baseline-long", "teacher"}


def test_a_term_of_weight_0_is_not_there(batch):
    found = made("combined", beta=0.0, alpha=1.0)(*batch)
    assert list(found) == ["loss", "ce", "feature"]
    assert made("response", beta=0.0).terms == []
