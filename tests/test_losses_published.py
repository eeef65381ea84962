"""Channel-wise distillation and DIST by value; what must not change them is in test_losses.py with the other losses."""

import math

import numpy as np
import pytest
import torch

from trainers.losses import channel_wise, distance_over_classes, distance_over_pixels, relations


def labels_of(rows):
    return torch.tensor([rows])


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


@pytest.fixture
def maps():
    """Student and teacher logits, 3 x 4 x 5 x 7, and labels with void pixels; the third image is void throughout."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, 5, 7, generator=generator) for _ in range(2))
    labels = torch.randint(0, 4, (3, 5, 7), generator=generator)
    labels[0, :2], labels[1, :, 5:], labels[2] = 255, 255, 255
    return student, teacher, labels


def test_channel_wise_of_a_hand_computed_2x2_case():
    """Two channels, τ = 2, three valid positions: the fourth is void, whatever it holds."""
    temperature = 2.0
    student, teacher = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    teacher[0, 0, 0, 0] = 2 * math.log(2)  # softened: weights (2, 1, 1) → φ = (1/2, 1/4, 1/4)
    student[0, 1, 0, 1] = 2 * math.log(4)  # softened: weights (1, 4, 1) → φ = (1/6, 4/6, 1/6)
    teacher[0, :, 1, 1], student[0, 0, 1, 1] = 50.0, -70.0
    first = kl((1 / 2, 1 / 4, 1 / 4), (1 / 3, 1 / 3, 1 / 3))
    second = kl((1 / 3, 1 / 3, 1 / 3), (1 / 6, 4 / 6, 1 / 6))
    expected = temperature**2 / 2 * (first + second)
    got = channel_wise(student, teacher, labels_of([[0, 1], [1, 255]]), temperature)
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_channel_wise_is_the_papers_formula_in_float64(maps):
    """τ² / C · Σ_c Σ_i φ_t log(φ_t / φ_s), image by image over its valid positions, written out with NumPy."""
    student, teacher, labels = maps
    by_image = []
    for s, t, y in zip(student.double().numpy(), teacher.double().numpy(), labels.numpy(), strict=True):
        if not (y != 255).any():
            continue
        phi_s, phi_t = (np.exp(z[:, y != 255] / 4) for z in (s, t))
        phi_s, phi_t = phi_s / phi_s.sum(1, keepdims=True), phi_t / phi_t.sum(1, keepdims=True)
        by_image.append(4**2 / len(s) * (phi_t * np.log(phi_t / phi_s)).sum())
    assert len(by_image) == 2
    assert channel_wise(student, teacher, labels, 4.0).item() == pytest.approx(np.mean(by_image), rel=1e-5)


def test_channel_wise_sees_where_a_channel_is_high_and_not_its_level(maps):
    student, _, labels = maps
    level = torch.arange(4.0).view(1, 4, 1, 1)
    assert channel_wise(student, student + level, labels, 4.0).item() == pytest.approx(0, abs=1e-5)
    assert channel_wise(student, 2 * student, labels, 4.0).item() > 1e-3


def test_relations_of_a_hand_computed_2x2_case():
    """Two classes: within a pixel r is 1 when the order of the classes agrees and −1 when it does not."""
    p_student = torch.tensor([[0.9, 0.6], [0.2, 0.5]])  # of class 0, by pixel; the fourth is void
    p_teacher = torch.tensor([[0.8, 0.3], [0.4, 0.5]])
    student, teacher = (torch.stack([p.log(), (1 - p).log()])[None] for p in (p_student, p_teacher))
    over_classes = 1 - (1 - 1 + 1) / 3
    a, b = np.array([0.9, 0.6, 0.2]), np.array([0.8, 0.3, 0.4])
    over_pixels = 1 - np.corrcoef(a, b)[0, 1]  # the same for class 1, whose probabilities mirror those of class 0
    got = relations(student, teacher, labels_of([[0, 1], [1, 255]]), 1.0)
    assert got.item() == pytest.approx(over_classes + over_pixels, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_relations_are_numpys_correlations_in_both_directions(maps, temperature):
    student, teacher, labels = maps
    valid = (labels != 255).numpy()
    p, q = (
        torch.softmax(logits.double() / temperature, 1).movedim(1, -1).numpy()[valid] for logits in (student, teacher)
    )
    over_classes = np.mean([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(len(p))])
    over_pixels = np.mean([1 - np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(4)])
    expected = temperature**2 * (over_classes + over_pixels)
    assert relations(student, teacher, labels, temperature).item() == pytest.approx(expected, rel=1e-4)


def test_relations_are_those_of_probabilities_and_not_of_logits(maps):
    """A constant added to a pixel's logits changes nothing; 4 is the value of opposite predictions of two classes."""
    student, teacher, labels = maps
    shifted = student + torch.randn(3, 1, 5, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(relations(shifted, teacher, labels, 1.0), relations(student, teacher, labels, 1.0))
    two = student[:, :2]
    assert relations(two, two.flip(1), labels, 1.0).item() == pytest.approx(4, abs=1e-5)


def test_correlation_distance_bounds():
    maps = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(2, 3, 5, dtype=torch.bool)
    valid[0, 1] = False
    outside = (~valid)[:, None].expand_as(maps)
    for distance in (distance_over_classes, distance_over_pixels):
        same, reverse = (maps_of.masked_fill(outside, 9.0) for maps_of in (3 * maps + 2, -maps))
        assert distance(maps, same, valid).item() == pytest.approx(0, abs=1e-6)
        assert distance(maps, reverse, valid).item() == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("loss", [channel_wise, relations])
def test_infinite_logits_under_void_pixels_reach_neither_value_nor_gradient(loss, maps):
    student, teacher, labels = maps
    expected = loss(student, teacher, labels, 2.0)
    void = (labels == 255)[:, None].expand_as(student)
    poisoned = student.masked_fill(void, float("inf")).requires_grad_()
    got = loss(poisoned, teacher.masked_fill(void, float("nan")), labels, 2.0)
    got.backward()
    torch.testing.assert_close(got.detach(), expected)
    assert poisoned.grad[void].abs().max() == 0
    assert poisoned.grad.isfinite().all()


@pytest.mark.parametrize("loss", [channel_wise, relations])
def test_descent_on_the_students_logits_reaches_the_teachers_relations(loss):
    """The gradient points the right way: following it from elsewhere makes the loss all but vanish."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(1, 3, 4, 4, generator=generator) for _ in range(2))
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    student.requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)
    before = loss(student, teacher, labels, 1.0).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss(student, teacher, labels, 1.0).backward()
        optimizer.step()
    assert loss(student, teacher, labels, 1.0).item() < 0.01 * before
