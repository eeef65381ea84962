"""The losses of distillation for segmentation, each in float32 and each over the valid pixels V alone.

V is every pixel whose label is not 255; for cross-entropy it leaves out those of images without labels (254) as well,
on which the other losses are computed all the same. Labels are brought to a loss's grid by nearest neighbour, teacher
maps by bilinear interpolation. A batch without a valid pixel gives 0, not NaN. But for the guide's literal KL, none
depends on the number of pixels or images: a batch doubled, or a scene tiled, has the same loss. A batch that several
processes share has the loss of the whole in each of them: whatever is summed over pixels or images is summed with
``total``.

Pixels are masked, never picked: picking (``maps[valid]``) makes a tensor whose size depends on the data, for which a
GPU has to wait, and which a CUDA graph cannot hold. Nor is any tensor made on the CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.labels import IGNORE, UNLABELLED
from kdbench.models.pixels import masked_mean, resize, total, valid_mask


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over V; with class weights, the weighted mean.

    Args:
        logits: N x C x h x w, resized to the labels' grid.
        labels: N x H x W int64, 255 = ignore, 254 = no label.
        class_weights: C, or None for equal weights.
    """
    logits = resize(logits.float(), labels)
    valid = labels < UNLABELLED
    labels = torch.where(valid, labels, IGNORE)
    pixels, wanted = logits, labels
    if torch.are_deterministic_algorithms_enabled():
        # CUDA has no deterministic cross-entropy over maps, but one over rows.
        pixels, wanted = logits.movedim(1, -1).flatten(0, -2), labels.flatten()
    summed = total(F.cross_entropy(pixels, wanted, class_weights, ignore_index=IGNORE, reduction="sum"))
    if class_weights is None:
        return summed / total(valid.sum()).clamp(min=1)
    weight_of_pixel = class_weights[torch.where(valid, labels, 0)]
    return summed / total(torch.where(valid, weight_of_pixel, 0).sum()).clamp(min=1e-12)


def response_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, reduction: str) -> Tensor:
    """KL(teacher ‖ student) of logits softened by T, times T² (Hinton et al. 2015).

    ``reduction="pixel"``: T² · 1/|V| · Σ_V Σ_c p_t (log p_t − log p_s), on the student's grid before upsampling.
    ``reduction="batchmean"``: the assignment guide's literal ``F.kl_div(..., reduction="batchmean")`` on maps at the
    labels' size. It divides by N alone and so sums over pixels, void ones too: at 512 x 512 about 10⁵ times the
    mean, so that cross-entropy vanishes beside it. Kept for comparison.

    Args:
        student, teacher: N x C x h x w logits; the teacher's grid may differ.
        labels: N x H x W int64.
    """
    if reduction == "batchmean":
        student, teacher = resize(student.float(), labels), resize(teacher.float(), labels)
        log_student = F.log_softmax(student / temperature, dim=1)
        divergence = F.kl_div(log_student, F.softmax(teacher / temperature, dim=1), reduction="sum")
        images = torch.full((), len(student), device=student.device)
        return total(divergence) / total(images) * temperature**2
    teacher = resize(teacher.float(), student)
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return masked_mean(divergence, valid_mask(labels, student)) * temperature**2


def feature_cosine(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """1 − cosine similarity of the channel vectors, mean over V; between 0 and 2.

    Args:
        student: N x K x h x w, after the adapter.
        teacher: N x K x h' x w', resized to the student's grid.
        labels: N x H x W int64.
    """
    teacher = resize(teacher.float(), student)
    distance = 1 - F.cosine_similarity(student.float(), teacher, dim=1)
    return masked_mean(distance, valid_mask(labels, student))


def feature_pearson(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """1 − Pearson r of each channel over V, mean over channels (PKD, Cao et al. 2022). Shapes as ``feature_cosine``.

    Cosine of post-ReLU maps starts high because their vectors are non-negative; standardised channels do not.
    """
    valid = valid_mask(labels, student)
    return distance_over_pixels(student.float(), resize(teacher.float(), student), valid)


def channel_wise(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Channel-wise distillation of logits (CWD, Shu et al., ICCV 2021, section 3.2).

    Each channel c of an image becomes a distribution over its positions, φ_c = softmax(z_c / τ) over V, and
    L = τ² / C · Σ_c Σ_i φ_c,i(teacher) · log(φ_c,i(teacher) / φ_c,i(student)), mean over the images that have a valid
    pixel. The authors distil logits with τ = 4 and weight 3 (their repository's "channel kl 3 4").

    Args:
        student, teacher: N x C x h x w logits; the teacher's grid may differ.
        labels: N x H x W int64.
        temperature: τ.
    """
    teacher = resize(teacher.float(), student)
    valid = valid_mask(labels, student)
    # −1e30 and not −∞: the probability is exactly 0 all the same, and an image without a valid pixel gives 0, not NaN.
    void = ~valid.flatten(1)[:, None]
    log_student, log_teacher = (
        F.log_softmax((logits.float().flatten(2) / temperature).masked_fill(void, -1e30), dim=-1)
        for logits in (student, teacher)
    )
    divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    images = total(valid.flatten(1).any(1).sum()).clamp(min=1)
    return total(divergence) / (images * student.shape[1]) * temperature**2


def relations(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """DIST (Huang et al., NeurIPS 2022, section 4): the teacher's relations, not its exact probabilities.

    With p = softmax(z / τ) over classes, L = τ² · [(1 − Pearson r over the classes of a pixel, mean over V) +
    (1 − Pearson r over V of a class, mean over classes)]: the paper's inter-class and intra-class relations. Its
    segmentation code weighs both with 1 and has τ = 1. Shapes as ``channel_wise``.
    """
    valid = valid_mask(labels, student)
    # Masked before the softmax: what is infinite under the mask must not reach the gradient either.
    s, t = (
        F.softmax(torch.where(valid[:, None], maps.float(), 0.0) / temperature, dim=1)
        for maps in (student, resize(teacher.float(), student))
    )
    return (distance_over_classes(s, t, valid) + distance_over_pixels(s, t, valid)) * temperature**2


def distance_over_classes(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
    """1 − Pearson r over the channels of each pixel, mean over V; between 0 and 2.

    Args:
        a, b: N x K x h x w.
        valid: N x h x w bool, V.
    """
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return masked_mean(1 - F.cosine_similarity(a, b), valid)


def distance_over_pixels(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
    """1 − Pearson r over V of each channel, mean over channels; between 0 and 2, and 0 without a pixel in V.

    Shapes as ``distance_over_classes``.
    """
    inside = valid[:, None]
    pixels = total(valid.sum())
    # Centred by the mean over V, and 0 outside of it: sums over all pixels are then sums over V.
    means = (total(torch.where(inside, x, 0.0).sum((0, 2, 3))) / pixels.clamp(min=1) for x in (a, b))
    a, b = (torch.where(inside, x - mean[:, None, None], 0.0) for x, mean in zip((a, b), means, strict=True))
    # The cosine of the centred channels as F.cosine_similarity has it: each norm is at least eps.
    products, a_squares, b_squares = (total(x.sum((0, 2, 3))) for x in (a * b, a * a, b * b))
    cosine = products / (a_squares.clamp(min=1e-16) * b_squares.clamp(min=1e-16)).sqrt()
    return torch.where(pixels > 0, 1 - cosine, 0 * products).mean()
