"""The losses by value: hand-computed cases, and what must not change them."""

import math

import pytest
import torch
import torch.nn.functional as F

from trainers.losses import cross_entropy, feature_cosine, feature_pearson, response_kl


@pytest.fixture
def maps():
    """Student and teacher maps, 2 x 5 x 6 x 8, and labels on the same grid with some ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 5, 6, 8, generator=generator)
    teacher = torch.randn(2, 5, 6, 8, generator=generator)
    labels = torch.randint(0, 5, (2, 6, 8), generator=generator)
    labels[0, :2] = 255
    return student, teacher, labels


def kl(student, teacher, labels, temperature=4.0):
    return response_kl(student, teacher, labels, temperature, "pixel")


ALL_LOSSES = [
    pytest.param(lambda s, t, y: cross_entropy(s, y), id="cross_entropy"),
    pytest.param(kl, id="kl"),
    pytest.param(feature_cosine, id="cosine"),
    pytest.param(feature_pearson, id="pearson"),
]


def test_kl_of_a_hand_computed_2x2_case():
    # Two classes, logits (0, z): p = (1/(1+e^(z/T)), …). One pixel differs, one agrees, two are ignored.
    temperature = 2.0
    student = torch.zeros(1, 2, 2, 2)
    teacher = torch.zeros(1, 2, 2, 2)
    teacher[0, 1, 0, 0] = 2 * math.log(3)  # softened by T = 2: p_t = (1/4, 3/4)
    teacher[0, 1, 1, 1] = 100.0  # under an ignored pixel
    labels = torch.tensor([[[0, 1], [255, 255]]])
    one_pixel = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    expected = temperature**2 * one_pixel / 2
    assert kl(student, teacher, labels, temperature).item() == pytest.approx(expected, rel=1e-6)


def test_kl_batchmean_is_the_guides_literal_formula(maps):
    student, teacher, labels = maps
    literal = F.kl_div(F.log_softmax(student / 4, 1), F.softmax(teacher / 4, 1), reduction="batchmean") * 16
    assert response_kl(student, teacher, labels, 4.0, "batchmean").item() == pytest.approx(literal.item(), rel=1e-6)


def test_kl_batchmean_sums_over_pixels(maps):
    student, teacher, _ = maps
    labels = torch.zeros(2, 6, 8, dtype=torch.long)
    ratio = response_kl(student, teacher, labels, 4.0, "batchmean") / kl(student, teacher, labels)
    assert ratio.item() == pytest.approx(6 * 8, rel=1e-5)


def test_kl_is_zero_when_student_equals_teacher(maps):
    student, _, labels = maps
    assert kl(student, student, labels).item() == pytest.approx(0.0, abs=1e-7)


def test_cross_entropy_is_torchs_mean_over_valid_pixels(maps):
    student, _, labels = maps
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    assert cross_entropy(student, labels) == pytest.approx(F.cross_entropy(student, labels, ignore_index=255).item())
    expected = F.cross_entropy(student, labels, weights, ignore_index=255).item()
    assert cross_entropy(student, labels, weights).item() == pytest.approx(expected, rel=1e-6)


def test_cosine_of_a_hand_computed_case():
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).T.reshape(1, 2, 1, 2)  # vectors (3, 4) and (1, 0)
    teacher = torch.tensor([[4.0, 3.0], [0.0, 2.0]]).T.reshape(1, 2, 1, 2)
    labels = torch.zeros(1, 1, 2, dtype=torch.long)
    assert feature_cosine(student, teacher, labels).item() == pytest.approx(((1 - 24 / 25) + 1) / 2, rel=1e-6)


def test_cosine_ignores_magnitude_and_is_2_for_opposite_features(maps):
    student, _, labels = maps
    assert feature_cosine(student, 7 * student, labels).item() == pytest.approx(0, abs=1e-6)
    assert feature_cosine(student, -student, labels).item() == pytest.approx(2, abs=1e-6)


def test_pearson_is_one_minus_numpys_correlation(maps):
    student, teacher, labels = maps
    valid = labels != 255
    r = [torch.corrcoef(torch.stack([student[:, k][valid], teacher[:, k][valid]]))[0, 1] for k in range(5)]
    expected = 1 - torch.stack(r).mean().item()
    assert feature_pearson(student, teacher, labels).item() == pytest.approx(expected, rel=1e-5)
    assert feature_pearson(student, 3 * student + 5, labels).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_unchanged_by_duplicating_the_batch(loss, maps):
    once = loss(*maps)
    twice = loss(*(torch.cat([m, m]) for m in maps))
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_unchanged_by_tiling_the_image(loss, maps):
    tiled = [torch.cat([m, m], dim=-1) for m in maps]
    torch.testing.assert_close(loss(*maps), loss(*tiled))


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_unchanged_by_adding_ignored_pixels(loss, maps):
    student, teacher, labels = maps
    padded = [F.pad(student, (0, 8), value=9.0), F.pad(teacher, (0, 8), value=-5.0), F.pad(labels, (0, 8), value=255)]
    torch.testing.assert_close(loss(*maps), loss(*padded))


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_zero_and_differentiable_when_everything_is_ignored(loss, maps):
    student, teacher, labels = maps
    student = student.clone().requires_grad_()
    value = loss(student, teacher, torch.full_like(labels, 255))
    value.backward()
    assert value.item() == 0
    assert student.grad.abs().max() == 0


def test_teacher_maps_and_labels_come_to_the_students_grid():
    student = torch.randn(1, 4, 6, 6)
    teacher = torch.randn(1, 4, 12, 12)
    labels = torch.zeros(1, 48, 48, dtype=torch.long)
    labels[:, :24] = 255
    small = F.interpolate(teacher, size=(6, 6), mode="bilinear", align_corners=False)
    expected = kl(student[:, :, 3:], small[:, :, 3:], torch.zeros(1, 3, 6, dtype=torch.long))
    torch.testing.assert_close(kl(student, teacher, labels), expected)


def test_losses_are_float32_for_bfloat16_maps(maps):
    student, teacher, labels = maps
    assert kl(student.bfloat16(), teacher.bfloat16(), labels).dtype == torch.float32
    assert cross_entropy(student.bfloat16(), labels).dtype == torch.float32
