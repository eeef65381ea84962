"""Student and teachers: sizes, taps, and loading weights that exist."""

import pytest
import torch
from safetensors.torch import save_file

from kdbench.errors import BadInput
from kdbench.models.architectures import ARCHITECTURES, Architecture
from kdbench.models.deployed import MaskModel
from kdbench.models.registry import build_model, count_gflops, unfused_attention
from kdbench.models.segmentation import LEVELS, SegmentationModel, Taps, parameter_count
from kdbench.torchvision_compat import torchvision
from trainers.weights import load_weights


@pytest.mark.parametrize("classes", [10, 11, 21])
def test_student_has_2_81_million_parameters(classes):
    assert parameter_count(build_model("student", classes)) == pytest.approx(2.81e6, rel=0.01)


@pytest.mark.parametrize("size", [(64, 64), (90, 120), (97, 33)])
def test_students_taps_are_at_stride_4_8_and_16(size):
    model = build_model("student", 7).eval()
    images = torch.randn(1, 3, *size)
    taps = model.taps(images)
    for level, stride in zip(LEVELS, (4, 8, 16), strict=True):
        expected = tuple(-(-side // stride) for side in size)
        assert taps.features[level].shape == (1, model.tap_channels[level], *expected)
    assert model(images).shape == (1, 7, *size)


@pytest.mark.parametrize("arch", ["fcn_resnet50", "fpn_resnet18", "lraspp_mobilenet_v3_large"])
def test_teachers_have_the_channels_that_they_declare(arch):
    model = build_model(arch, 7).eval()
    taps = model.taps(torch.randn(1, 3, 64, 64))
    assert {level: maps.shape[1] for level, maps in taps.features.items()} == model.tap_channels
    assert taps.logits.shape[1] == 7


def test_fcn_resnet50_is_torchvisions_without_its_auxiliary_head():
    torch.manual_seed(0)
    reference = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=21)
    model = build_model("fcn_resnet50", 21)
    model.load_state_dict(reference.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), reference.eval()(images)["out"])


def test_lraspp_is_torchvisions():
    torch.manual_seed(0)
    reference = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=21
    )
    model = build_model("lraspp_mobilenet_v3_large", 21)
    model.load_state_dict(reference.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), reference.eval()(images)["out"])
    taps = model.taps(images)
    assert [taps.features[level].shape[-1] for level in LEVELS] == [24, 12, 6]


@pytest.mark.parametrize("arch", ["student", "lraspp_mobilenet_v3_large"])
def test_batchnorm_momentum_suits_short_runs(arch):
    assert {m.momentum for m in build_model(arch, 5).modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}


def test_mask_model_is_normalise_model_argmax():
    from kdbench.data.preprocessing import normalise

    torch.manual_seed(0)
    model = build_model("student", 5).eval()
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(torch.from_numpy(normalise(image.numpy()))).argmax(1)
        mask = MaskModel(model).eval()(image)
    assert mask.dtype == torch.uint8
    assert (mask == expected).float().mean() > 0.999


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_is_counted_wherever_the_network_is_built(device):
    """By hand: four projections, two products with the tokens, and the two linear layers behind them."""
    from torch.utils.flop_counter import FlopCounterMode

    tokens, width, inner = 50, 16, 32
    layer = torch.nn.TransformerEncoderLayer(width, 2, inner, batch_first=True, device=device).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), unfused_attention():
        layer(torch.zeros(1, tokens, width, device=device))
    products = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * inner
    assert counter.get_total_flops() == 2 * products
    assert torch.backends.mha.get_fastpath_enabled()


def test_gflops_count_a_known_convolution(monkeypatch):
    class OneConvolution(SegmentationModel):
        tap_channels = dict.fromkeys(LEVELS, 3)

        def __init__(self, classes):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, classes, 3, padding=1)

        def taps(self, images):
            return Taps(self.convolution(images), {})

    monkeypatch.setattr(ARCHITECTURES, "_items", {})  # what a test declares must not stay
    ARCHITECTURES.add(Architecture("one", OneConvolution, ("student",)))
    assert count_gflops("one", 8, (32, 64)) == pytest.approx(2 * 3 * 8 * 9 * 32 * 64 / 1e9)


@pytest.fixture(scope="module")
def voc_weights(tmp_path_factory):
    """A state dict as torchvision publishes it: fcn_resnet50, 21 classes, with the auxiliary head."""
    torch.manual_seed(3)
    net = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )
    path = tmp_path_factory.mktemp("weights") / "fcn.pth"
    torch.save(net.state_dict(), path)
    return path, net.state_dict()


def test_published_weights_fill_the_whole_teacher(voc_weights):
    path, state = voc_weights
    model = build_model("fcn_resnet50", 21)
    assert load_weights(model, "fcn_resnet50", str(path)).complete
    assert torch.equal(model.classifier[4].weight, state["classifier.4.weight"])


def test_another_number_of_classes_keeps_the_backbone(voc_weights):
    path, state = voc_weights
    model = build_model("fcn_resnet50", 11)
    fresh = model.classifier[4].weight.clone()
    assert not load_weights(model, "fcn_resnet50", str(path)).complete
    assert torch.equal(model.backbone["conv1"].weight, state["backbone.conv1.weight"])
    assert torch.equal(model.classifier[4].weight, fresh)


def test_safetensors_weights(tmp_path):
    state = build_model("fpn_resnet18", 5).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    model = build_model("fpn_resnet18", 5)
    assert load_weights(model, "fpn_resnet18", str(tmp_path / "w.safetensors")).complete
    assert torch.equal(model.classifier.weight, state["classifier.weight"])


def test_bad_weights_are_named(tmp_path, voc_weights):
    model = build_model("fpn_resnet18", 21)
    with pytest.raises(
        BadInput, match=r"do not fit fpn_resnet18: \d+ parameters missing.*give weights of a fpn_resnet18"
    ):
        load_weights(model, "fpn_resnet18", str(voc_weights[0]))
    with pytest.raises(BadInput, match="'nowhere.pth' does not exist"):
        load_weights(model, "fpn_resnet18", "nowhere.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(BadInput, match="cannot be read as a state dict"):
        load_weights(model, "fpn_resnet18", str(tmp_path / "broken.pth"))
    with pytest.raises(BadInput, match="got 'IMAGENET', expected .* COCO_WITH_VOC_LABELS_V1"):
        load_weights(build_model("fcn_resnet50", 21), "fcn_resnet50", "IMAGENET")
