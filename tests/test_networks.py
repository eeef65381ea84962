"""Networks by name: from packages and from a file, their taps, what they return, and how they want their images."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from kdbench.data.normalisation import IMAGENET, Input
from kdbench.data.preprocessing import normalise
from kdbench.errors import BadInput, KdbenchError
from kdbench.models.code import code_of, trust
from kdbench.models.deployed import deployable
from kdbench.models.foreign import ForeignModel, logits_of
from kdbench.models.network import Network, Tap
from kdbench.models.registry import build_model, tried
from kdbench.models.tracing import trace
from tests.conftest import REPOSITORY
from tests.networks.pyramid import Pyramid
from trainers.augmentation import converted

OWN = f"{REPOSITORY / 'tests' / 'networks' / 'pyramid.py'}:pyramid"
SMP = pytest.mark.needs("segmentation_models_pytorch")
BGR255 = Input((104.0, 117.0, 123.0), (1.0, 2.0, 4.0), range=255, space="BGR")


@pytest.fixture
def trusted(monkeypatch):
    monkeypatch.setenv("KDBENCH_TRUSTED_CODE", "")
    trust(code_of(OWN))


def stride_and_path(network, classes=11, size=(96, 128)):
    found = tried(Network.parse(network, "--student"), classes, size, "student").taps
    return {level: (tap.module, tap.stride, tap.channels, tap.layout) for level, tap in found.items()}


@pytest.mark.parametrize(
    ("network", "taps"),
    [
        pytest.param(
            "smp:Unet(encoder_name='resnet18')",
            {
                "low": ("encoder.layer1", 4, 64, "map"),
                "mid": ("encoder.layer2", 8, 128, "map"),
                "high": ("encoder.layer3", 16, 256, "map"),
            },
            marks=SMP,
        ),
        (
            "torchvision:deeplabv3_mobilenet_v3_large",
            {
                "low": ("backbone.3", 4, 24, "map"),
                "mid": ("backbone.6", 8, 40, "map"),
                "high": ("backbone.16", 16, 960, "map"),
            },
        ),
        (
            "torchvision:fcn_resnet50",
            {"low": ("backbone.layer1", 4, 256, "map"), "mid": ("backbone.layer4", 8, 2048, "map")},
        ),
    ],
)
def test_taps_are_found(network, taps):
    assert stride_and_path(network) == taps


def test_tokens_become_maps():
    network = tried(Network("transformers:segformer_b0"), 5, (64, 96), "student")
    assert network.taps["low"].layout == "tokens"
    model = build_model(network, 5).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = model.taps(image).features
        seen = []
        handle = model.net.get_submodule(network.taps["low"].module).register_forward_hook(
            lambda module, inputs, output: seen.append(output)
        )
        model.net(image)
        handle.remove()
    assert {level: tuple(maps.shape) for level, maps in features.items()} == {
        "low": (1, 32, 16, 24), "mid": (1, 64, 8, 12), "high": (1, 160, 4, 6),
    }  # fmt: skip
    # Row by row: token 24 · y + x stands at (y, x).
    torch.testing.assert_close(features["low"][0, :, 3, 5], seen[0][0, 24 * 3 + 5])


def test_a_network_in_a_file(trusted):
    found = stride_and_path(f"{OWN}(width=8)", classes=4)
    assert found == {
        "low": ("stage4", 4, 16, "map"), "mid": ("stage8", 8, 24, "map"), "high": ("stage16", 16, 32, "map"),
    }  # fmt: skip


def test_a_checkpoint_has_the_networks_own_names():
    net = Pyramid(4)
    model = ForeignModel(net, 4, {}, "pyramid")
    outer = nn.ModuleDict({"model": model, "other": nn.Linear(1, 1)})
    assert list(model.state_dict()) == list(net.state_dict())
    assert {key for key in outer.state_dict() if key.startswith("model.")} == {
        f"model.{key}" for key in net.state_dict()
    }
    other = nn.ModuleDict({"model": ForeignModel(Pyramid(4), 4, {}, "pyramid"), "other": nn.Linear(1, 1)})
    other.load_state_dict(outer.state_dict())
    torch.testing.assert_close(other["model"].net.fine.weight, net.fine.weight)
    Pyramid(4).load_state_dict(model.state_dict())


def test_a_network_with_a_net_of_its_own_keeps_both_layers_of_one_name():
    """``net.head`` inside of it is another layer than its ``head``."""

    def nested():
        return nn.Sequential(
            OrderedDict(net=nn.Sequential(OrderedDict(head=nn.Conv2d(3, 8, 1))), head=nn.Conv2d(8, 4, 1))
        )

    model, other = (ForeignModel(nested(), 4, {}, "nested") for _ in range(2))
    state = model.state_dict()
    assert {name: tuple(values.shape) for name, values in state.items()} == {
        "net.head.weight": (8, 3, 1, 1), "net.head.bias": (8,), "head.weight": (4, 8, 1, 1), "head.bias": (4,),
    }  # fmt: skip
    other.load_state_dict(dict(reversed(state.items())))
    images = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(other(images), model(images))


def test_a_copy_reads_its_own_features(trusted):
    model = build_model(tried(Network.parse(OWN, "--student"), 4, (64, 96), "student"), 4).eval()
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        assert double.taps(torch.zeros(1, 3, 64, 96).double()).features["mid"].dtype == torch.float64


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"out": x, "aux": None}, lambda x: (x, 1)])
def test_logits_are_found(wrap):
    logits = torch.zeros(1, 4, 8, 8)
    assert logits_of(wrap(logits), 4, "net") is logits


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"masks": 1}, r"returned a dict with masks, expected logits"),
        (torch.zeros(1, 21, 8, 8), r"returned 1 x 21 x 8 x 8, expected N x 4 x h x w logits"),
        (torch.zeros(1, 4), r"returned 1 x 4, expected"),
        (None, r"returned NoneType"),
    ],
)
def test_what_is_no_logits_is_said(output, said):
    with pytest.raises(BadInput, match=said):
        logits_of(output, 4, "net")


@SMP
def test_a_size_that_does_not_fit_is_said_with_one_that_does():
    network = Network.parse("smp:Segformer(encoder_name='mit_b0')", "--student")
    with pytest.raises(BadInput, match=r"does not take images of 180x240 .* try --size 192x256"):
        tried(network, 11, (180, 240), "student")


def test_the_file_of_a_failing_function_is_named(tmp_path, monkeypatch):
    path = tmp_path / "broken.py"
    path.write_text("def net(classes):\n    return {}[classes]\n", encoding="utf-8")
    monkeypatch.setenv("KDBENCH_TRUSTED_CODE", code_of(f"{path}:net").sha256)
    with pytest.raises(BadInput, match=r"broken.py:net' fails at line 2 of '.*broken.py' \(KeyError: 11\)"):
        tried(Network(f"{path}:net"), 11, (64, 96), "student")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("net = 3", r"has no function net: expected FILE\.py:FUNCTION"),
        ("def net(classes):\n    return [classes]\n", r"returned a list, expected a torch\.nn\.Module"),
        ("import nowhere_at_all\n", r"fails at line 1 of '.*' \(ModuleNotFoundError: No module named"),
    ],
)
def test_a_file_that_builds_no_network(tmp_path, monkeypatch, text, said):
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("KDBENCH_TRUSTED_CODE", code_of(f"{path}:net").sha256)
    for _ in range(2):  # a module that failed once is not taken for a whole one
        with pytest.raises(BadInput, match=said):
            tried(Network(f"{path}:net"), 11, (64, 96), "student")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("gone.py:net", "no file 'gone.py', whose function builds the network"),
        ("nowhere.at_all:net", "no Python module 'nowhere.at_all'"),
        ("folder_of_things:net", "'folder_of_things' is no Python file"),
    ],
)
def test_code_that_is_not_there(named, said, tmp_path, monkeypatch):
    (tmp_path / "folder_of_things").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KdbenchError, match=said):
        code_of(named)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            "smp:Unet(encoder_name='resnet18', encoder_weights='imagenet')",
            "'encoder_weights', expected a network without",
            marks=SMP,
        ),
        ("timm:resnet18(checkpoint_path='x.pth')", "'checkpoint_path'"),
        ("timm:hf-hub:someone/model", "'hf-hub:someone/model'"),
        pytest.param("smp:Unet(encoder_name='tu-hf-hub:someone/model')", "hf-hub", marks=SMP),
        ("timm:nope", "timm .* has no such encoder"),
        ("timm:vit_tiny_patch16_224", "its maps have the strides 16, 16, 16, expected one of 4, 8, 32"),
        ("torchvision:resnet50", "expected one of deeplabv3"),
        ("transformers:bert", "expected one of segformer_b0"),
        ("elsewhere:net", "expected one of student"),
        ("student(width=3)", "takes no arguments"),
    ],
)
def test_names_that_are_refused(text, said):
    with pytest.raises(BadInput, match=said):
        tried(Network.parse(text, "--student"), 11, (96, 128), "student")


@pytest.mark.parametrize("text", ["smp:Unet(__import__('os').system('true'))", "smp:Unet(a=open('x'))", "smp:Unet(1)"])
def test_arguments_are_data(text):
    with pytest.raises(BadInput, match="expected named values"):
        Network.parse(text, "--student")


@SMP
def test_a_sidecar_describes_its_network():
    network = tried(Network.parse("smp:Unet(encoder_name='resnet18')", "--student"), 11, (96, 128), "student")
    again = Network.recorded(network.fields())
    assert (again.arch, again.kwargs, again.taps) == ("smp:Unet", {"encoder_name": "resnet18"}, network.taps)
    assert again.packages.keys() == {"segmentation_models_pytorch"}
    assert Network("student").fields() == {"arch": "student"}


def test_taps_of_a_decoder_and_of_the_logits_are_left_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, padding=1) for i in range(4))
            self.up = nn.Conv2d(4, 9, 3, padding=1)
            self.head = nn.Conv2d(9, 2, 1)

        def forward(self, x):
            for conv in self.down:
                x = conv(x)
            return self.head(self.up(x))

    found = trace(Net(), 2, (64, 64), "net")
    assert {level: tap.module for level, tap in found.items()} == {"low": "down.1", "mid": "down.2", "high": "down.3"}
    assert found["high"] == Tap("down.3", 16, 4, "map")


def test_normalised_as_the_network_wants():
    pixel = np.array([[[[10, 20, 30]]]], np.uint8)
    assert normalise(pixel, BGR255)[0, :, 0, 0].tolist() == [30 - 104, (20 - 117) / 2, (10 - 123) / 4]
    half = Input((0.5,) * 3, (0.25,) * 3)
    np.testing.assert_allclose(
        normalise(pixel, half)[0, :, 0, 0], (np.array([10, 20, 30]) / 255 - 0.5) / 0.25, rtol=1e-5
    )


def test_a_mask_model_normalises_inside(trusted):
    model = build_model(Network.parse(OWN, "--student"), 4).eval()
    model.input = BGR255
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    with torch.no_grad():
        got = deployable(model, "mask")(torch.from_numpy(image))
        expected = model(torch.from_numpy(normalise(image, BGR255))).argmax(1)
    torch.testing.assert_close(got.long(), expected)


@pytest.mark.parametrize(("made", "wanted"), [(IMAGENET, BGR255), (BGR255, IMAGENET), (BGR255, BGR255)])
def test_one_batch_for_two_networks(made, wanted):
    """What a teacher sees is the student's view, normalised as the teacher wants it."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    got = converted(torch.from_numpy(normalise(pixels, made)), made, wanted)
    np.testing.assert_allclose(got.numpy(), normalise(pixels, wanted), atol=2e-3)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"mean": [1, 2]}, "three numbers"),
        ({"std": [0, 1, 1]}, "above 0"),
        ({"space": "HSV"}, "RGB or BGR"),
        ({"range": 2}, "1 or 255"),
        ({"sdt": [1, 1, 1]}, "got 'sdt'"),
    ],
)
def test_an_input_that_cannot_be(about, said):
    with pytest.raises(BadInput, match=said):
        Input.read(about, "input")
