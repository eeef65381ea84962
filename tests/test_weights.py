"""Weights as people have them fill what they fit, whatever the names begin with, and say what they left."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdbench.errors import BadInput
from kdbench.models.registry import build_model
from kdbench.torchvision_compat import torchvision
from trainers.weights import load_weights

ARCH = "fpn_resnet18"


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(5)
    return build_model(ARCH, 5).state_dict()


@pytest.fixture
def load(tmp_path):
    """Save what a test has as a file, and load it into a fresh model: (model, what was filled)."""

    def run(saved, arch=ARCH, name="x.pth", **options):
        torch.save(saved, tmp_path / name)
        model = build_model(arch, 5)
        return model, load_weights(model, arch, str(tmp_path / name), **options)

    return run


def prefixed(prefix, state):
    return OrderedDict((prefix + name, value) for name, value in state.items())


def same(model, state):
    return all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {"model_state": prefixed("module.", s)},
        lambda s: {"state_dict": {**prefixed("model.net.", s), "criterion.weight": torch.ones(5)}},
        lambda s: {"state_dict": prefixed("_orig_mod.module.", s), "optimizer_states": [{"state": {}}]},
        lambda s: {"my_network": s},
        lambda s: {"model": None, "epoch": torch.tensor(3), "net": s},
        lambda s: {name: value for name, value in s.items() if not name.endswith("num_batches_tracked")},
    ],
    ids=["bare", "wrapped", "twice", "ddp", "lightning", "compiled", "own key", "scalar beside", "no counters"],
)  # fmt: skip
def test_whatever_is_around_a_network_it_is_found_whole(load, state, wrap):
    model, filled = load(wrap(state))
    assert filled.complete
    assert not filled.fresh
    given = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert same(model, given)
    assert set(filled.filled) == set(given)


@pytest.mark.parametrize("name", ["x.pt", "x.ckpt", "x.bin", "x.pth.tar", "x"])
def test_the_suffix_does_not_matter(load, state, name):
    assert load(state, name=name)[1].complete


def test_safetensors_by_another_name(state, tmp_path):
    save_file(prefixed("module.", state), tmp_path / "pytorch_model.bin")
    assert load_weights(build_model(ARCH, 5), ARCH, str(tmp_path / "pytorch_model.bin")).complete


def test_a_file_of_old_torch(state, tmp_path):
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load_weights(build_model(ARCH, 5), ARCH, str(tmp_path / "old.pth")).complete


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_another_width_become_the_networks(load, state, dtype):
    model, filled = load({name: v.to(dtype) if v.is_floating_point() else v for name, v in state.items()})
    assert filled.complete
    assert model.classifier.weight.dtype == torch.float32
    assert torch.equal(model.classifier.weight, state["classifier.weight"].to(dtype).float())


@pytest.mark.parametrize(
    ("pack", "said"),
    [
        (lambda a, b: {"ema": b, "model": a}, ", its 'model' and not 'ema'"),
        (lambda a, b: {"model_ema": b, "weights_of_mine": a}, ", its 'weights_of_mine' and not 'model_ema'"),
        (lambda a, b: {"teacher": b, "student": a}, ", its 'student' and not 'teacher'"),
        (lambda a, b: {**prefixed("ema.", b), **prefixed("network.", a)}, ", its 'network.' and not 'ema.'"),
        (lambda a, b: {"net": a, "other": {"bias": torch.ones(3)}}, ""),
    ],
)
def test_of_several_networks_the_trained_one_is_taken_and_said(load, state, pack, said):
    torch.manual_seed(6)
    averaged = build_model(ARCH, 5).state_dict()
    model, filled = load(pack(state, averaged))
    assert same(model, state)
    assert filled.line("teacher").startswith(f"teacher: 142 of 142 tensors from 'x.pth'{said} (sha256 ")


def test_of_several_networks_the_one_that_fits(load, state):
    """A distillation's checkpoint holds two architectures."""
    model, filled = load({"student": build_model("student", 5).state_dict(), "teacher": state})
    assert filled.complete
    assert same(model, state)


@pytest.mark.parametrize("prefix", ["features.", "module.backbone.", "encoder.", ""])
def test_an_encoder_alone_fills_the_encoder(load, prefix):
    """And computes what it computed."""
    torch.manual_seed(7)
    net = torchvision.models.mobilenet_v3_small(weights=None).eval()
    saved = {**prefixed(prefix, net.features.state_dict()), "classifier.3.weight": net.classifier[3].weight}
    model, filled = load(saved, arch="student")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval().encoder(images), net.features(images))
    assert not filled.complete
    assert all(name.startswith("encoder.") for name in filled.filled)
    assert not any(name.startswith("encoder.") for name in filled.fresh)
    assert filled.unused == ("classifier.3.weight",)
    assert filled.line("student").endswith("; not used: classifier (1)")


def test_a_line_and_fields_say_what_was_left(load, state):
    _, filled = load(
        {**{name: v for name, v in state.items() if not name.startswith("fuse")}, "fc.bias": state["stem.1.bias"]}
    )
    assert filled.sha256 is not None
    assert filled.line("student") == (
        f"student: 127 of 142 tensors from 'x.pth' (sha256 {filled.sha256[:8]}…); left fresh: fuse16 (5), fuse8 (5), "
        "fuse4 (5); not used: fc (1)"
    )
    assert filled.fields() == {"name": "x.pth", "sha256": filled.sha256, "filled": 127, "fresh": 15, "unused": 1}


def test_a_classifier_for_other_classes_stays_fresh_and_is_listed(load, tmp_path):
    _, filled = load(build_model(ARCH, 9).state_dict())
    assert filled.fresh == ("classifier.weight", "classifier.bias")
    assert filled.unused == filled.fresh
    torch.manual_seed(8)
    before = build_model(ARCH, 5)
    torch.manual_seed(8)
    again = build_model(ARCH, 5)
    load_weights(again, ARCH, str(tmp_path / "x.pth"))
    assert torch.equal(again.classifier.weight, before.classifier.weight)
    assert not torch.equal(again.fuse4[0].weight, before.fuse4[0].weight)


def test_a_head_of_another_width_stays_fresh_with_the_bias_that_would_fit(load, state):
    saved = {**state, "classifier.weight": torch.ones(5, 7, 3, 3)}
    assert load(saved)[1].fresh == ("classifier.weight", "classifier.bias")


def test_a_module_that_was_named_is_filled_from_few_tensors(load, state):
    name = "layer1.0.conv1.weight"
    saved = {"conv1.weight": state[name], **{f"other.{i}": torch.ones(3) for i in range(9)}}
    with pytest.raises(BadInput, match=r"^--student-weights .* do not fit .*, or name the module .* \(weights_into\)$"):
        load(saved, flag="--student-weights")
    model, filled = load(saved, into="layer1.0")
    assert filled.filled == (name,)
    assert same(model, {name: state[name]})
    with pytest.raises(BadInput, match=r"do not fit fpn_resnet18, module layer2: .* 1 of another shape|none of its"):
        load({"conv1.weight": torch.ones(3, 3)}, into="layer2")
    with pytest.raises(BadInput, match=r"fpn_resnet18 has no module 'encoder' to fill, expected one of stem, layer1,"):
        load(saved, into="encoder")


def test_nothing_that_fits_shows_a_name_of_each_side(load):
    message = (
        r"x.pth': none of its tensors \(1\) fits fpn_resnet18 by name and shape \(it has 'fc.weight' 7x2, there is "
        "'stem.0.weight' 64x3x7x7"
    )
    with pytest.raises(BadInput, match=message):
        load({"fc.weight": torch.ones(7, 2)})


@pytest.mark.parametrize(
    "make",
    [
        lambda: build_model("fcn_resnet50", 5),
        lambda: torchvision.models.resnet50(weights=None),
        lambda: build_model("student", 5),
    ],
)
def test_another_networks_weights_are_refused_though_some_fit(load, make):
    with pytest.raises(BadInput, match=r"do not fit fpn_resnet18: \d+ parameters missing, \d+ unknown, \d+ of another"):
        load(make().state_dict())


def test_another_width_of_the_same_network_says_how_much_does_not_fit(load):
    net = torchvision.models.mobilenet_v3_large(weights=None)
    with pytest.raises(BadInput, match=r"do not fit student: \d+ parameters missing, \d+ unknown, [1-9]\d* of another"):
        load(net.state_dict(), arch="student")


def test_a_deeper_network_fills_all_and_is_not_the_same(load, state):
    """A teacher of its weights is trained: the second half of each stage is missing."""
    deeper = {**state, **{name.replace("layer1.1", "layer1.2"): v for name, v in state.items() if "layer1.1" in name}}
    _, filled = load(prefixed("module.", deeper))
    assert (filled.fresh, filled.complete) == ((), False)
    assert filled.line("teacher").endswith("; not used: layer1 (10)")
    assert load({**state, "adapter.0.weight": torch.ones(3)})[1].complete


@pytest.mark.needs("segmentation_models_pytorch", "timm")
def test_an_encoder_of_one_library_in_a_decoder_of_another(tmp_path):
    import segmentation_models_pytorch as smp
    import timm

    net = smp.FPN("resnet18", encoder_weights=None, classes=5)
    net.published = net.upstream_names = dict
    theirs = timm.create_model("resnet18", pretrained=False).state_dict()
    torch.save(theirs, tmp_path / "timm.pth")
    filled = load_weights(net, "net", str(tmp_path / "timm.pth"))
    assert {name.split(".")[0] for name in filled.filled} == {"encoder"}
    assert {name.split(".")[0] for name in filled.fresh} == {"decoder", "segmentation_head"}
    assert all(torch.equal(value, theirs[name]) for name, value in net.encoder.state_dict().items())
    # A whole network with another decoder: the encoder's part is taken, and of the head's bias nothing.
    unet = smp.Unet("resnet18", encoder_weights=None, classes=5).state_dict()
    torch.save(unet, tmp_path / "unet.pth")
    filled = load_weights(net, "net", str(tmp_path / "unet.pth"))
    assert {name.split(".")[0] for name in filled.filled} == {"encoder"}


def test_the_command_takes_what_a_distributed_training_saved(kdbench, tiny_arguments, trained_runs, tmp_path):
    trained = load_file(trained_runs / "folder" / "teacher" / "teacher.safetensors")
    torch.save({"epoch": 9, "model": prefixed("module.", trained)}, tmp_path / "ddp.pth")
    arguments = ["--weights", tmp_path / "ddp.pth", "--runs", tmp_path / "runs", *tiny_arguments]
    done = kdbench("train", "--method", "teacher", *arguments)
    assert done.code == 0, done.err
    made = tmp_path / "runs" / "folder" / "teacher" / "teacher.safetensors"
    about = json.loads(made.with_suffix(".json").read_text())
    assert about["epoch"] == 0  # it is not trained any more
    assert about["miou"] == json.loads((trained_runs / "folder/teacher/teacher.json").read_text())["miou"]
    got = load_file(made)
    assert all(torch.equal(got[name], value) for name, value in trained.items())


def test_the_command_refuses_what_does_not_fit_in_one_line(kdbench, tiny_arguments, tmp_path):
    torch.save({"model": {"fc.weight": torch.ones(7, 2)}}, tmp_path / "x.pth")
    runs = tmp_path / "runs"
    done = kdbench("train", "--method", "teacher", "--weights", tmp_path / "x.pth", "--runs", runs, *tiny_arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(
        f"kdbench: --teacher-weights '{tmp_path / 'x.pth'}': none of its tensors (1) fits fpn_resnet18"
    )
    assert not list(runs.rglob("*.safetensors"))
