"""The losses by value: hand-computed cases, and what must not change them."""

import math

import pytest
import torch
import torch.nn.functional as F

from trainers.losses import channel_wise, cross_entropy, feature_cosine, feature_pearson, relations, response_kl


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


def cwd(student, teacher, labels, temperature=4.0):
    return channel_wise(student, teacher, labels, temperature)


def dist(student, teacher, labels, temperature=1.0):
    return relations(student, teacher, labels, temperature)


DISTILLATION_LOSSES = [
    pytest.param(kl, id="kl"),
    pytest.param(feature_cosine, id="cosine"),
    pytest.param(feature_pearson, id="pearson"),
    pytest.param(cwd, id="cwd"),
    pytest.param(dist, id="dist"),
]
ALL_LOSSES = [pytest.param(lambda s, t, y: cross_entropy(s, y), id="cross_entropy"), *DISTILLATION_LOSSES]


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


def test_cross_entropy_is_torchs_mean_over_valid_pixels(maps):
    student, _, labels = maps
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    assert cross_entropy(student, labels) == pytest.approx(F.cross_entropy(student, labels, ignore_index=255).item())
    expected = F.cross_entropy(student, labels, weights, ignore_index=255).item()
    assert cross_entropy(student, labels, weights).item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_of_a_hand_computed_2x2_case():
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1, 0, 0] = math.log(3)  # p = (1/4, 3/4), its label 1; one pixel at (1/2, 1/2); two are ignored
    labels = torch.tensor([[[1, 0], [255, 255]]])
    expected = (-math.log(3 / 4) - math.log(1 / 2)) / 2
    assert cross_entropy(logits, labels).item() == pytest.approx(expected, rel=1e-6)
    weighted = (-3 * math.log(3 / 4) - math.log(1 / 2)) / (3 + 1)
    assert cross_entropy(logits, labels, torch.tensor([1.0, 3.0])).item() == pytest.approx(weighted, rel=1e-6)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.01, 0.02])])
def test_cross_entropy_leaves_out_images_without_labels(weights):
    """One labelled pixel among those of 254 and 255: its own cross-entropy, however small its class's weight."""
    logits = torch.zeros(2, 2, 1, 2)
    logits[0, 1, 0, 0] = math.log(3)
    logits[1] = 50.0
    labels = torch.tensor([[[1, 255]], [[254, 254]]])
    assert cross_entropy(logits, labels, weights).item() == pytest.approx(-math.log(3 / 4), rel=1e-6)
    logits.requires_grad_()
    nothing = cross_entropy(logits, torch.full_like(labels, 254), weights)
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])])
def test_cross_entropy_by_rows_is_that_over_maps(maps, weights):
    """The form that a GPU has a deterministic algorithm for."""
    student, _, labels = maps
    expected = cross_entropy(student, labels, weights)
    torch.use_deterministic_algorithms(True)
    try:
        found = cross_entropy(student, labels, weights)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, expected)


def test_pearson_of_one_pixel_is_that_of_no_relation():
    student, teacher = torch.tensor([[[[3.0]], [[2.0]]]]), torch.tensor([[[[5.0]], [[7.0]]]])
    assert feature_pearson(student, teacher, torch.zeros(1, 1, 1, dtype=torch.long)).item() == 1


@pytest.mark.parametrize("loss", [kl, feature_cosine, cwd])
def test_of_one_pixel_it_is_that_pixels(loss):
    generator = torch.Generator().manual_seed(4)
    student, teacher = (torch.randn(1, 3, 2, 2, generator=generator) for _ in range(2))
    labels = torch.full((1, 2, 2), 255)
    labels[0, 1, 0] = 2
    alone = (maps[:, :, 1:, :1] for maps in (student, teacher))
    torch.testing.assert_close(loss(student, teacher, labels), loss(*alone, labels[:, 1:, :1]))


def test_cosine_of_a_hand_computed_2x2_case():
    student = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0], [9.0, 9.0]]).T.reshape(1, 2, 2, 2)
    teacher = torch.tensor([[4.0, 3.0], [0.0, 2.0], [5.0, 5.0], [-9.0, 0.0]]).T.reshape(1, 2, 2, 2)
    labels = torch.tensor([[[0, 0], [0, 255]]])  # 24/25, orthogonal, parallel, ignored
    assert feature_cosine(student, teacher, labels).item() == pytest.approx((1 / 25 + 1 + 0) / 3, rel=1e-6)


def test_pearson_of_a_hand_computed_2x2_case():
    """Channel 0: (1, 2, 3) and (2, 4, 6) → r = 1. Channel 1: (0, 1, 2) and (0, 3, 0) → r = 0. The fourth is ignored."""
    student = torch.tensor([[1.0, 2.0, 3.0, 50.0], [0.0, 1.0, 2.0, -50.0]]).reshape(1, 2, 2, 2)
    teacher = torch.tensor([[2.0, 4.0, 6.0, -9.0], [0.0, 3.0, 0.0, 77.0]]).reshape(1, 2, 2, 2)
    labels = torch.tensor([[[0, 0], [0, 255]]])
    assert feature_pearson(student, teacher, labels).item() == pytest.approx((0 + 1) / 2, abs=1e-6)


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


@pytest.mark.parametrize("loss", DISTILLATION_LOSSES)
def test_zero_with_zero_gradient_when_student_equals_teacher(loss, maps):
    student, _, labels = maps
    student = student.clone().requires_grad_()
    value = loss(student, student.detach().clone(), labels)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.abs().max().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", DISTILLATION_LOSSES)
def test_above_zero_when_student_and_teacher_differ(loss, maps):
    assert loss(*maps).item() > 0.05


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_unchanged_by_duplicating_the_batch(loss, maps):
    once = loss(*maps)
    twice = loss(*(torch.cat([m, m]) for m in maps))
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_unchanged_by_tiling_the_image(loss, maps):
    for dim in (-1, -2):
        tiled = [torch.cat([m, m], dim=dim) for m in maps]
        torch.testing.assert_close(loss(*maps), loss(*tiled))


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_unchanged_by_adding_ignored_pixels(loss, maps):
    student, teacher, labels = maps
    padded = [F.pad(student, (0, 8), value=9.0), F.pad(teacher, (0, 8), value=-5.0), F.pad(labels, (0, 8), value=255)]
    torch.testing.assert_close(loss(*maps), loss(*padded))
    void = [torch.cat([m, m[:1]]) for m in (student, teacher, torch.full_like(labels, 255))]
    with_a_void_image = (void[0], void[1], torch.cat([labels, void[2][:1]]))
    torch.testing.assert_close(loss(*maps), loss(*with_a_void_image))


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_gradients_reach_every_labelled_pixel_and_no_other(loss, maps):
    student, teacher, labels = maps
    student = student.clone().requires_grad_()
    loss(student, teacher, labels).backward()
    reached = student.grad.abs().sum(1) > 0
    assert (reached == (labels != 255)).all()


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_zero_and_differentiable_when_everything_is_ignored(loss, maps):
    student, teacher, labels = maps
    student = student.clone().requires_grad_()
    value = loss(student, teacher, torch.full_like(labels, 255))
    value.backward()
    assert value.item() == 0
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize("loss", DISTILLATION_LOSSES)
def test_teacher_maps_and_labels_come_to_the_students_grid(loss):
    student = torch.randn(1, 4, 6, 6)
    teacher = torch.randn(1, 4, 12, 12)
    labels = torch.zeros(1, 48, 48, dtype=torch.long)
    labels[:, :24] = 255
    small = F.interpolate(teacher, size=(6, 6), mode="bilinear", align_corners=False)
    expected = loss(student[:, :, 3:], small[:, :, 3:], torch.zeros(1, 3, 6, dtype=torch.long))
    torch.testing.assert_close(loss(student, teacher, labels), expected)


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_losses_are_float32_for_bfloat16_maps(loss, maps):
    student, teacher, labels = (m.bfloat16() if m.is_floating_point() else m for m in maps)
    got = loss(student, teacher, labels)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, loss(student.float(), teacher.float(), labels))
