"""BatchNorm whose statistics are of all processes: the network computes what it computes in one process."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdbench.errors import BadInput
from kdbench.models.registry import build_model
from trainers.processes import SharedBatchNorm2d, share_batchnorm


@pytest.fixture(autouse=True)
def two_processes(monkeypatch):
    """Sums over them are this one's alone, whose batch is then the whole."""
    monkeypatch.setattr("trainers.processes.world_size", lambda: 2)


def shared(model):
    found = copy.deepcopy(model)
    share_batchnorm(found)
    norms = [module for module in found.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(type(norm) is SharedBatchNorm2d for norm in norms)
    return found


def without_chance(model):
    """Dropout would draw other values in each copy."""
    for module in model.modules():
        if "Drop" in type(module).__name__:
            module.p = module.drop_prob = 0.0
    return model


@pytest.mark.parametrize(
    "arch", ["student", "student_lite0", pytest.param("timm:mobilenetv3_small_100", marks=pytest.mark.needs("timm"))]
)
def test_activations_inside_a_batchnorm_stay(arch):
    """timm's networks have theirs there."""
    torch.manual_seed(0)
    model = without_chance(build_model(arch, 4)).double()  # in float32 rounding grows from layer to layer
    found, images = shared(model), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert list(found.state_dict()) == list(model.state_dict())
    for training in (True, False):  # eval after train: the statistics of that pass are in it
        model.train(training)
        found.train(training)
        with torch.no_grad():
            torch.testing.assert_close(found(images), model(images))


class Activated(nn.BatchNorm2d):
    """As timm's BatchNormAct2d, with an activation that learns."""

    def __init__(self):
        super().__init__(4)
        self.drop, self.act = nn.Identity(), nn.PReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def test_an_activation_that_learns_is_still_the_networks():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Activated())
    found, images = shared(model), torch.randn(2, 3, 8, 8)
    assert list(found.state_dict()) == list(model.state_dict())
    for network in (model, found):
        network(images).square().sum().backward()
    assert model[1].act.weight.grad.abs() > 0
    torch.testing.assert_close(found[1].act.weight.grad, model[1].act.weight.grad)


def test_the_one_that_gpus_have_keeps_the_activation_too(monkeypatch):
    """Alone in its process it normalises by its own batch, on a CPU too."""
    monkeypatch.setattr("trainers.processes.with_shared_statistics", nn.SyncBatchNorm.convert_sync_batchnorm)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Activated())
    found, images = copy.deepcopy(model), torch.randn(2, 3, 8, 8)
    share_batchnorm(found)
    assert isinstance(found[1], nn.SyncBatchNorm)
    assert list(found.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(found(images), model(images))


def test_a_batchnorm_without_weights_of_its_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
    found, images = shared(model), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(found(images), model(images))
    torch.testing.assert_close(found[1].running_var, model[1].running_var)


def test_a_batchnorm_that_keeps_no_statistics():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    found, images = shared(model), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(found(images), model(images))
    assert found.state_dict().keys() == model.state_dict().keys()


class Doubled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_batchnorm_that_does_more_than_is_known_is_refused():
    with pytest.raises(BadInput) as refused:
        share_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1), Doubled(4)))
    assert str(refused.value) == (
        "module '1': got the BatchNorm Doubled, expected nn.BatchNorm2d or timm's BatchNormAct2d, whose statistics "
        "several processes can share: train in one process"
    )
