"""``kdbench model``: parameters and GFLOPs by stage against sums done by hand, and the taps against a real pass."""

from __future__ import annotations

import json

import pytest
import torch

from kdbench.models.architectures import ARCHITECTURES
from kdbench.models.describe import describe, stage_of
from kdbench.models.network import Network
from kdbench.models.registry import build_model, count_gflops
from kdbench.models.segmentation import LEVELS, parameter_count


@pytest.mark.parametrize("arch", ARCHITECTURES.names())
def test_stages_hold_every_parameter_and_every_flop_once(arch):
    report = describe(arch, 7, (96, 160))
    model = build_model(arch, 7)
    assert report["params"] == sum(stage["params"] for stage in report["stages"]) == parameter_count(model)
    # Two ways to count: hooks on each layer here, one whole pass with the upsampling there.
    assert report["gflops"] == pytest.approx(count_gflops(arch, 7, (96, 160)), rel=1e-9)
    assert sum(stage["gflops"] for stage in report["stages"]) == pytest.approx(report["gflops"], rel=1e-9)
    assert all(stage["params"] and stage["gflops"] for stage in report["stages"])
    for name, _ in model.named_parameters():
        of = [s for s, parts in model.stages.items() if any(name.startswith(f"{part}.") for part in parts)]
        assert of == [stage_of(model, name)], name
    names = {name for name, _ in model.named_modules()}
    assert {part for parts in model.stages.values() for part in parts} <= names


@pytest.mark.parametrize("arch", ARCHITECTURES.names())
def test_taps_are_those_of_a_real_pass(arch):
    report = describe(arch, 7, (90, 120))
    with torch.inference_mode():
        taps = build_model(arch, 7).eval().taps(torch.randn(1, 3, 90, 120))
    maps = {**taps.features, "logits": taps.logits}
    assert [tap["name"] for tap in report["taps"]] == [*LEVELS, "logits"]
    for tap in report["taps"]:
        assert (1, tap["channels"], *tap["size"]) == maps[tap["name"]].shape
        assert [-(-side // tap["stride"]) for side in (90, 120)] == tap["size"]


def test_a_stage_by_hand():
    """The student's fusion at stride 8: two 1 x 1 and a 3 x 3 convolution without bias, BatchNorm after each."""
    stage = next(s for s in describe("student", 11, (512, 512))["stages"] if s["name"] == "fusion, stride 8")
    assert stage["params"] == (24 * 48 + 96) + (128 * 48 + 96) + (9 * 48 * 48 + 96)
    lateral, reduce, fuse = 24 * 48 * 64**2, 128 * 48 * 32**2, 9 * 48 * 48 * 64**2  # reduced before it is upsampled
    assert stage["gflops"] == pytest.approx(2 * (lateral + reduce + fuse) / 1e9)


def test_the_command_prints_stages_total_and_taps(kdbench):
    done = kdbench("model", "--classes", "11", "--size", "360x480")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    report = describe("student", 11, (360, 480))
    assert lines[0] == "student, 11 classes, input 360 x 480"
    for stage in report["stages"]:
        line = next(line for line in lines if line.startswith(stage["name"]))
        assert f"{stage['params']:,}" in line
        assert f"{stage['gflops']:.3f}" in line
    total = next(line for line in lines if line.startswith("total"))
    assert f"{report['params']:,}" in total
    assert total.count("100.0%") == 2
    assert any(line.split() == ["high", "stride", "16", "48", "x", "23", "x", "30"] for line in lines)


def test_json_on_stdout_is_nothing_but_json(kdbench):
    done = kdbench("model", "--arch", "fcn_resnet50", "--size", "64x64", "--json", "-")
    document = json.loads(done.out)
    environment = document.pop("environment")
    assert document == describe("fcn_resnet50", 21, (64, 64))
    assert environment["versions"]["torch"]


def test_json_in_a_file_beside_the_table(kdbench, tmp_path):
    path = tmp_path / "made" / "model.json"
    done = kdbench("model", "--size", "64x64", "--json", path)
    assert done.out.splitlines()[-1] == f"written: {path}"
    assert json.loads(path.read_text(encoding="utf-8"))["params"] == describe("student", 21, (64, 64))["params"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", "unet"], "architecture: got 'unet', expected one of student, fcn_resnet50"),
        (["--size", "31x64"], "--size: got '31x64', expected HEIGHTxWIDTH"),
        (["--json", "model.txt"], "--json: got 'model.txt', expected a file that ends in .json, or - for stdout"),
    ],
)
def test_bad_flags_are_one_line(kdbench, flags, message):
    done = kdbench("model", *flags)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert message in done.err


@pytest.mark.needs("timm")
def test_an_encoder_whose_maps_have_their_channels_last():
    """Swin's have; the pyramid reads N x C x H x W."""
    small = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "img_size": (64, 64)}
    model = build_model(Network("timm:swin_tiny_patch4_window7_224", small), 5).eval()
    taps = model.taps(torch.zeros(1, 3, 64, 64))
    assert taps.logits.shape == (1, 5, 16, 16)
