"""What losses are built of, by value: sums over processes, the grid of the valid pixels, means that void cannot reach."""

import pytest
import torch

from kdbench.models import pixels
from kdbench.models.pixels import masked_mean, resize, total, valid_mask

INF = float("inf")


class Processes:
    """Stands for ``torch.distributed`` where each of so many processes holds the same values."""

    def __init__(self, count):
        self.count = count

    def is_initialized(self):
        return self.count > 0

    def get_world_size(self):
        return self.count

    def all_reduce(self, values):
        assert values.is_contiguous()  # NCCL takes no other
        values *= self.count


@pytest.mark.parametrize(("count", "times"), [(0, 1), (1, 1), (2, 2), (3, 3)])
def test_a_sum_over_processes_and_its_gradient(monkeypatch, count, times):
    monkeypatch.setattr(pixels, "dist", Processes(count))
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).T.requires_grad_()  # not contiguous
    summed = total(values)
    assert summed.tolist() == [[times * 1, times * 4], [times * 2, times * 5], [times * 3, times * 6]]
    (summed * torch.tensor([1.0, 10.0])).sum().backward()
    # Every process adds to the same loss, so that a value's gradient is the sum of theirs.
    assert values.grad.tolist() == [[times * 1, times * 10]] * 3
    assert values[0].tolist() == [1.0, 4.0]  # the process's own values are not written over
    if times == 1:
        assert summed is values


def test_without_a_group_nobody_is_asked_how_many_there_are():
    assert total(values := torch.ones(2)) is values


def test_maps_of_the_same_grid_are_not_touched_and_others_come_to_it():
    like = torch.zeros(1, 7, 2, 4)
    maps = torch.arange(16.0).reshape(2, 1, 2, 4)
    assert resize(maps, like) is maps
    for shape in ((2, 2), (4, 4), (1, 4), (2, 8)):
        assert resize(torch.ones(2, 3, *shape), like).shape == (2, 3, 2, 4)
    # The labels' grid has no channels: N x H x W.
    assert resize(maps, torch.zeros(5, 4, 8)).shape == (2, 1, 4, 8)
    large = torch.ones(3, 1, 4, 8)
    assert resize(large, torch.zeros(3, 4, 8)) is large
    # Bilinear at half-pixel centres: 0 and 4 become 0, 1, 3 and 4.
    assert resize(torch.tensor([[[[0.0, 4.0]]]]), torch.zeros(1, 4)).tolist() == [[[[0.0, 1.0, 3.0, 4.0]]]]


def test_the_valid_mask_takes_the_label_at_the_centre_of_each_cell():
    """Of 5 labels on 2 cells the centres lie at 1.25 and 3.75; the legacy ``nearest`` takes those at 0 and 2.5."""
    like = torch.zeros(1, 3, 1, 2)
    for labels, expected in (
        ([0, 255, 0, 0, 0], [False, True]),
        ([0, 0, 0, 255, 0], [True, False]),
        ([255, 0, 255, 0, 255], [True, True]),
        ([254, 253, 0, 254, 0], [True, True]),
    ):
        assert valid_mask(torch.tensor([[labels]]), like).tolist() == [[expected]]
    two = torch.tensor([[[0, 255]], [[255, 0]]])
    assert valid_mask(two, torch.zeros(2, 3, 1, 2)).tolist() == [[[True, False]], [[False, True]]]
    # Rows and columns are not exchanged.
    tall = torch.tensor([[[0, 0, 0, 0], [255, 255, 255, 255]]])
    assert valid_mask(tall, torch.zeros(1, 9, 2, 1)).tolist() == [[[True], [False]]]


def test_what_is_infinite_under_the_mask_reaches_neither_the_mean_nor_the_gradient():
    values = torch.tensor([[[1.0, INF, 2.0], [-INF, float("nan"), 6.0]]], requires_grad=True)
    valid = torch.tensor([[[True, False, True], [False, False, True]]])
    mean = masked_mean(values, valid)
    mean.backward()
    assert mean.item() == 3
    assert values.grad.tolist() == [[[pytest.approx(1 / 3), 0, pytest.approx(1 / 3)], [0, 0, pytest.approx(1 / 3)]]]


def test_the_mean_of_one_pixel_is_its_value_and_of_none_0():
    values = torch.full((1, 2, 2), 5.0)
    one = torch.tensor([[[False, True], [False, False]]])
    assert masked_mean(values, one).item() == 5
    assert masked_mean(values, torch.zeros_like(one)).item() == 0


def test_a_mean_over_processes_weighs_pixels(monkeypatch):
    monkeypatch.setattr(pixels, "dist", Processes(2))
    assert masked_mean(torch.tensor([[[1.0, 3.0]]]), torch.ones(1, 1, 2, dtype=torch.bool)).item() == 2
