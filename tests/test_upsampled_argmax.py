"""The elementwise class map against Resize and ArgMax."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdbench.models.upsampled_argmax import first_maximum, half_pixel_weights, upsampled_argmax


@pytest.mark.parametrize("grid", [(6, 8), (5, 8), (6, 7), (48, 64), (1, 1)])
def test_equal_to_upsampling_and_argmax(grid):
    """Sizes that are multiples of the grid, that are not, and no upsampling at all."""
    logits = torch.randn(3, 11, *grid, generator=torch.Generator().manual_seed(0))
    full = F.interpolate(logits, size=(48, 64), mode="bilinear", align_corners=False)
    top = full.topk(2, dim=1).values
    clear = (top[:, 0] - top[:, 1]) > 1e-5  # where two classes tie up to rounding, either is right
    got = upsampled_argmax(logits, (48, 64))
    assert clear.float().mean() > 0.999
    assert torch.equal(got[clear], full.argmax(1)[clear].float())


def test_weights_by_value():
    left, own, right = half_pixel_weights(2)
    assert torch.equal(left, torch.tensor([0.25, 0.0]))
    assert torch.equal(own, torch.tensor([0.75, 0.75]))
    assert torch.equal(right, torch.tensor([0.0, 0.25]))
    for factor in (1, 3, 8):
        assert torch.allclose(sum(half_pixel_weights(factor)), torch.ones(factor))


def test_first_among_equals():
    same = torch.zeros(1, 2, 2)
    assert torch.equal(first_maximum([same, same, same]), torch.zeros(1, 2, 2))
    assert torch.equal(first_maximum([same, same + 1, same + 1]), torch.ones(1, 2, 2))
