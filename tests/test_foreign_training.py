"""Training networks from elsewhere: side by side, again, resumed; variants, and gains that pair within them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import onnx
import pytest
import torch.distributed as dist

import trainers.loop
from kdbench.comparison.results import Comparison
from kdbench.comparison.tables import as_text
from kdbench.methods.base import title_of
from kdbench.models.code import TRUSTED
from kdbench.runs.tree import USUAL, RunTree, variant_of
from tests.conftest import REPOSITORY

OWN = f"{REPOSITORY / 'tests' / 'networks' / 'pyramid.py'}:pyramid"
RECIPE = """
size = [64, 96]
epochs = 2
batch_size = 4
precision = "fp32"
teacher_precision = "fp32"
validate_every = 1
[student]
arch = "{own}"
kwargs = {{ width = 8 }}
input = {{ mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25], space = "BGR" }}
[teacher]
arch = "{own}"
{teacher}
"""


@pytest.fixture(autouse=True)
def nothing_agreed(monkeypatch):
    monkeypatch.setenv(TRUSTED, "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("foreign")


@pytest.fixture
def flags(folder, folder_dataset):
    recipe = folder / "own.toml"
    recipe.write_text(RECIPE.format(own=OWN, teacher=""), encoding="utf-8")
    return ("--dataset", "folder", "--data-root", folder_dataset, "--recipe", recipe, "--trust-code")


@pytest.fixture
def trained(folder, flags, kdbench):
    """Teacher, and three students side by side, of a network of one's own with an input of its own."""
    runs = folder / "runs"
    if not runs.exists():
        done = kdbench("train", "--method", "teacher,baseline,response,feature", *flags, "--runs", runs)
        assert done.code == 0, done.err
    tree = RunTree(runs, "folder")
    (variant,) = tree.trained_variants()
    return tree.of_variant(variant)


def sidecar(tree, method):
    return json.loads(tree.folder(method).sidecar.read_text())


def test_what_a_sidecar_says(trained):
    about = sidecar(trained, "feature")
    assert about["input"] == {"mean": [0.5] * 3, "std": [0.25] * 3, "range": 1, "space": "BGR"}
    assert about["network"]["kwargs"] == {"width": 8}
    assert {level: tap["module"] for level, tap in about["network"]["taps"].items()} == {
        "low": "stage4", "mid": "stage8", "high": "stage16",
    }  # fmt: skip
    assert about["variant"] == trained.variant
    assert "input" not in sidecar(trained, "teacher")  # the teacher sees the same images as ImageNet's statistics say
    assert trained.folder("teacher").path.parent == trained.root


def test_interrupted_and_resumed_bit_for_bit(trained, flags, kdbench, folder, monkeypatch):
    runs = folder / "resumed"
    finish = trainers.loop.finish_epoch

    def stop(arm, validation):
        finish(arm, validation)
        if arm.method == "feature" and arm.epochs_done == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainers.loop, "finish_epoch", stop)
    command = ("train", "--method", "teacher,baseline,response,feature", *flags, "--runs", runs)
    assert kdbench(*command).code == 130
    monkeypatch.setattr(trainers.loop, "finish_epoch", finish)
    assert kdbench(*command, "--resume").code == 0
    again = RunTree(runs, "folder", trained.variant)
    for method in ("teacher", "baseline", "response", "feature"):
        assert sidecar(again, method)["sha256"] == sidecar(trained, method)["sha256"], method


def test_the_same_again_from_a_sidecar(trained, kdbench, folder):
    done = kdbench("train", "--from", trained.folder("feature").sidecar, "--runs", folder / "again", "--trust-code")
    assert done.code == 0, done.err
    assert "the same weights as" in done.out


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo, the CPU's communication")
def test_two_processes_follow_one(flags, kdbench, folder):
    """Plain gradient descent: Adam's first steps are of equal size whatever rounding makes of a gradient near 0."""
    recipe = folder / "sgd.toml"
    recipe.write_text('optimizer = "sgd"\nlr = 1e-3\n' + RECIPE.format(own=OWN, teacher=""), encoding="utf-8")
    command = ["train", "--method", "teacher,feature", *flags, "--recipe", recipe, "--runs"]
    assert kdbench(*command, folder / "one").code == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kdbench"]
    done = subprocess.run(
        [*torchrun, *map(str, (*command, folder / "two"))], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for role in ("one", "two"):
        (variant,) = RunTree(folder / role, "folder").trained_variants()
    for method in ("teacher", "feature"):
        one, two = (RunTree(folder / name, "folder", variant).folder(method) for name in ("one", "two"))
        histories = [[json.loads(line) for line in run.history.read_text().splitlines()] for run in (one, two)]
        for expected, row in zip(*histories, strict=True):
            for name in set(expected) - {"seconds", "miou"}:
                assert row[name] == pytest.approx(expected[name], rel=5e-3), (method, name)
    assert json.loads(two.sidecar.read_text())["processes"] == 2


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'kdbench[sweep]'"
)
def test_swept_networks_are_those_trained_alone(trained, flags, kdbench, folder, folder_dataset):
    grid = folder / "grid.toml"
    grid.write_text(
        f'dataset = "folder"\ndata_root = "{folder_dataset}"\nrecipe = "{folder / "own.toml"}"\n'
        'methods = ["baseline", "feature"]\nseeds = [0]\n',
        encoding="utf-8",
    )
    done = kdbench("sweep", grid, "--runs", folder / "swept", "--trust-code")
    assert done.code == 0, done.err
    swept = RunTree(folder / "swept", "folder", trained.variant)
    for method in ("teacher", "baseline", "feature"):
        assert sidecar(swept, method)["sha256"] == sidecar(trained, method)["sha256"], method


def test_a_teacher_with_a_tuple_among_its_arguments_is_recognised(tmp_path, tiny_arguments, kdbench):
    """Its sidecar has a list in the tuple's place."""
    own = tmp_path / "own.py"
    own.write_text(
        "from torch import nn\n\n\ndef plain(classes, sides):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, sides, 4, padding=1), nn.Conv2d(8, classes, 1))\n",
        encoding="utf-8",
    )
    command = ("train", *tiny_arguments, "--epochs", 1, "--runs", tmp_path / "runs", "--trust-code")
    teacher = ("--teacher", f"{own}:plain(sides=(3, 3))")
    done = kdbench(*command, *teacher, "--method", "teacher")
    assert done.code == 0, done.err
    done = kdbench(*command, *teacher, "--method", "response")
    assert done.code == 0, done.err
    done = kdbench(*command, "--teacher", f"{own}:plain(sides=(3, 5))", "--method", "response")
    assert (done.code, "leave --teacher out to learn from it" in done.err) == (2, True)


def test_exports_know_how_images_are_wanted(trained, kdbench):
    done = kdbench(
        "export", "--method", "feature", "--format", "onnx", "--precision", "fp32", "--runs", trained.runs,
        "--trust-code",
    )  # fmt: skip
    assert done.code == 0, done.err
    path = trained.export("feature", "onnx", "fp32", "mask")
    about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    (told,) = [json.loads(value)["normalisation"] for value in about.values() if "normalisation" in value]
    assert told == {"mean": [0.5] * 3, "std": [0.25] * 3, "range": 1, "space": "BGR"}
    parity = json.loads(path.with_suffix(".json").read_text())["parity"]
    assert parity["pixel_agreement"] >= 0.999


def test_levels_that_one_side_lacks_are_left_out_and_said(folder, folder_dataset, kdbench):
    recipe = folder / "levels.toml"
    recipe.write_text(RECIPE.format(own=OWN, teacher='epochs = 1\n[teacher.taps]\nlow = "stage4"\nmid = "stage8"'))
    data = ("--dataset", "folder", "--data-root", folder_dataset, "--recipe", recipe, "--epochs", 1)
    done = kdbench("train", "--method", "teacher,feature", *data, "--trust-code", "--runs", folder / "levels")
    assert done.code == 0, done.err
    assert "the teacher at low, mid: distilling at low, mid alone" in done.err


def test_variants_in_one_table(trained, kdbench, flags, folder_dataset, tiny_recipe):
    """The usual student beside one's own: each gain pairs with the baseline of its own variant."""
    done = kdbench(
        "train", "--method", "baseline", "--dataset", "folder", "--data-root", folder_dataset, "--recipe",
        tiny_recipe, "--runs", trained.runs, "--epochs", 1,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "taking the variant" not in done.err
    done = kdbench(
        "compare", "--runs", trained.runs, "--method", "baseline,response", "--backend", "torch", "--rounds", 10,
        "--trust-code",
    )  # fmt: skip
    assert done.code == 0, done.err
    comparison = Comparison.read(trained.comparison)
    assert [(row.variant, row.method, row.status) for row in comparison.rows] == [
        (None, "baseline", "ok"), (None, "response", "unavailable"), (trained.variant, "baseline", "ok"),
        (trained.variant, "response", "ok"),
    ]  # fmt: skip
    assert [(gain.variant, gain.method) for gain in comparison.improvements] == [(trained.variant, "response")]
    own = comparison.rows[3]
    assert own.student == f"{OWN}(width=8)"
    (gain,) = comparison.improvements
    assert gain.baseline_miou == pytest.approx(comparison.rows[2].miou)
    assert set(comparison.training) == {"baseline", f"{trained.variant}/baseline", f"{trained.variant}/response"}
    assert f"{title_of('response')}, {trained.variant}" in as_text(comparison)
    report = kdbench("report", "--runs", trained.runs, "--trust-code")
    assert report.code == 0, report.err
    chosen = kdbench(
        "compare", "--runs", trained.runs, "--variant", USUAL, "--method", "baseline", "--backend", "torch",
        "--rounds", 10, "--json", trained.root / "usual.json",
    )  # fmt: skip
    assert chosen.code == 0, chosen.err
    assert [row.variant for row in Comparison.read(trained.root / "usual.json").rows] == [None]
    wrong = kdbench("export", "--method", "baseline", "--runs", trained.runs, "--variant", "student=nobody")
    assert (wrong.code, "expected one of usual, student=" in wrong.err) == (2, True)


def test_names_of_variants():
    assert variant_of({}) is None
    assert variant_of({"student": "smp:Unet(encoder_name='resnet18')"}) == "student=smp-Unet-encoder_name-resnet18"
    long = variant_of({"student": "x" * 300})
    assert len(long) < 80
    assert variant_of({"hold-out": "東京"}) != variant_of({"hold-out": "大阪"})
    assert variant_of({"hold-out": "東京"}).startswith("hold-out=")
    assert long != variant_of({"student": "x" * 301})
