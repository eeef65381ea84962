"""An ensemble as the teacher: the mean of trained models' logits, through the models, the files and the command line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdbench.backends.torch_eager import TorchBackend
from kdbench.comparison.evaluate import evaluate
from kdbench.data import open_dataset
from kdbench.errors import BadInput
from kdbench.models.registry import build_model, load_model
from kdbench.models.segmentation import SegmentationModel, upsample
from tests.exports import read_unsealed
from trainers.recipe import load_recipe
from trainers.weights import load_weights

ARCH = "fpn_resnet18+student"


def test_the_mean_of_the_logits_and_the_first_members_features():
    torch.manual_seed(0)
    ensemble = build_model("fpn_resnet18+student+student", 5).eval()
    first, second, third = ensemble.members
    images = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        taps = ensemble.taps(images)
        logits = [member.taps(images).logits for member in (first, second, third)]
        features = first.taps(images).features
        assert torch.allclose(taps.logits, (logits[0] + logits[1] + logits[2]) / 3, atol=1e-6)
        assert torch.equal(ensemble(images), upsample(taps.logits, images))
    assert not torch.allclose(logits[1], logits[2])
    assert all(torch.equal(taps.features[level], features[level]) for level in ("low", "mid", "high"))
    assert ensemble.tap_channels == first.tap_channels


def test_logits_of_another_stride_come_to_the_finest_grid():
    ensemble = build_model("lraspp_mobilenet_v3_large+student", 5).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        coarse, fine = (member.taps(images).logits for member in ensemble.members)
        got = ensemble.taps(images).logits
    assert coarse.shape[2:] == (8, 12)
    assert fine.shape[2:] == got.shape[2:] == (16, 24)
    assert torch.allclose(got, (upsample(coarse, fine) + fine) / 2, atol=1e-6)


def test_weights_one_file_of_each_member(tmp_path):
    members = {"fpn_resnet18": build_model("fpn_resnet18", 5), "student": build_model("student", 5)}
    for arch, member in members.items():
        save_file(member.state_dict(), tmp_path / f"{arch}.safetensors")
    save_file(build_model("fpn_resnet18", 4).state_dict(), tmp_path / "other.safetensors")
    a, b, other = (str(tmp_path / f"{name}.safetensors") for name in (*members, "other"))
    ensemble = build_model(ARCH, 5)
    assert load_weights(ensemble, ARCH, f"{a},{b}").complete
    for loaded, member in zip(ensemble.members, members.values(), strict=True):
        assert all(torch.equal(loaded.state_dict()[key], value) for key, value in member.state_dict().items())
    with pytest.raises(
        BadInput, match=r"got 1 file for fpn_resnet18 \+ student, expected 2, one of each in that order"
    ):
        load_weights(ensemble, ARCH, a)
    with pytest.raises(BadInput, match=r"do not fit fpn_resnet18: .* give weights of a fpn_resnet18"):
        load_weights(ensemble, ARCH, f"{b},{a}")
    with pytest.raises(BadInput, match="other.safetensors' are for another number of classes .* give a fpn_resnet18"):
        load_weights(ensemble, ARCH, f"{other},{b}")


@pytest.mark.parametrize("arch", ["resnet", "fpn_resnet18+resnet", "fpn_resnet18+", "+"])
def test_an_unknown_member_is_refused_before_anything_starts(arch):
    with pytest.raises(BadInput, match=r"--teacher: got '.*', expected one of student, fcn_resnet50, .* joined by \+"):
        load_recipe("shapes", {}, arch)


@pytest.fixture(scope="module")
def members(trained_runs):
    folder = trained_runs / "folder"
    return f"{folder / 'teacher' / 'teacher.safetensors'},{folder / 'baseline' / 'student.safetensors'}"


def test_students_learn_from_the_ensemble(kdbench, tiny_arguments, folder_dataset, trained_runs, members, tmp_path):
    arch = json.loads((trained_runs / "folder" / "teacher" / "teacher.json").read_text())["arch"] + "+student"
    shutil.copytree(trained_runs / "folder" / "baseline", tmp_path / "folder" / "baseline")
    arguments = ["--runs", tmp_path, *tiny_arguments]
    done = kdbench("train", "--method", "teacher,response,feature", "--teacher", arch, "--weights", members, *arguments)
    assert done.code == 0, done.err
    path = tmp_path / "folder" / "teacher" / "teacher.safetensors"
    state = load_file(path)
    for index, source in enumerate(members.split(",")):
        assert all(torch.equal(state[f"members.{index}.{key}"], value) for key, value in load_file(source).items())
    about = json.loads(path.with_suffix(".json").read_text())
    assert (about["arch"], about["epoch"], about["weights"]) == (arch, 0, members)

    model, _ = load_model(path, "kdbench train")
    backend = TorchBackend(model, output="mask", size=tuple(about["size"]))
    assert about["miou"] == evaluate(backend, open_dataset("folder", "val", folder_dataset)).miou

    single = trained_runs / "folder"
    for method in ("response", "feature"):
        learnt = json.loads((tmp_path / "folder" / method / "student.json").read_text())["teacher"]
        assert (learnt["arch"], learnt["sha256"]) == (arch, about["sha256"])
    taught = load_file(tmp_path / "folder" / "response" / "student.safetensors")
    alone = load_file(single / "response" / "student.safetensors")
    assert any(not torch.equal(taught[key], alone[key]) for key in taught)
    # features are the first member's, and that is the single teacher
    taught = load_file(tmp_path / "folder" / "feature" / "student.safetensors")
    alone = load_file(single / "feature" / "student.safetensors")
    assert all(torch.equal(taught[key], alone[key]) for key in taught)

    compared = kdbench(
        "compare", "--runs", tmp_path, "--dataset", "folder", "--data-root", folder_dataset, "--method",
        "baseline,response", "--backend", "torch", "--rounds", "10", "--json", tmp_path / "table.json",
    )  # fmt: skip
    assert compared.code == 0, compared.err
    assert f"Teacher {arch}: mIoU {about['miou']:.4f}" in compared.out
    assert "not a fair comparison" not in compared.out  # though the recorded recipes name two teachers

    before = path.read_bytes()
    again = f"{path},{members.split(',')[1]}"
    done = kdbench("train", "--method", "teacher", "--teacher", arch, "--weights", again, *arguments)
    assert done.code == 2
    assert f"--weights: '{path}' is where the ensemble would be written: train the members under another" in done.err
    assert path.read_bytes() == before


def test_an_ensemble_without_its_members_is_one_line(kdbench, tiny_arguments, trained_runs, members, tmp_path):
    arguments = ["--runs", tmp_path, *tiny_arguments]
    done = kdbench("train", "--method", "teacher", "--teacher", ARCH, *arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"kdbench: --teacher {ARCH}: its members are trained one by one, not together: give their")
    done = kdbench("train", "--method", "teacher", "--teacher", ARCH, "--weights", "nowhere.pth,x.pth", *arguments)
    assert (done.code, done.err) == (2, "kdbench: --teacher-weights: 'nowhere.pth' does not exist\n")
    arch = json.loads((trained_runs / "folder" / "teacher" / "teacher.json").read_text())["arch"]
    done = kdbench("train", "--method", "teacher", "--teacher", arch, "--weights", members, *arguments)
    assert done.code == 2
    assert f"got 2 files for {arch}, expected one: for an ensemble of them join their architectures" in done.err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_member_that_knows_other_classes_is_named(kdbench, tiny_arguments, trained_runs, tmp_path):
    copy = shutil.copytree(trained_runs / "folder" / "teacher", tmp_path / "other")
    about = read_unsealed(copy / "teacher.json")
    about["classes"][3] = "unicorn"
    (copy / "teacher.json").write_text(json.dumps(about))
    source = copy / "teacher.safetensors"
    done = kdbench("train", "--method", "teacher", "--weights", source, "--runs", tmp_path, *tiny_arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert f"--weights '{source}' know class 3 as 'unicorn', the dataset calls it '" in line
    assert not (tmp_path / "folder" / "teacher" / "teacher.safetensors").exists()


def test_stages_are_the_members(kdbench):
    done = kdbench("model", "--arch", ARCH, "--classes", "11", "--size", "64x96", "--json", "-")
    report = json.loads(done.out)
    parts = [
        sum(p.numel() for p in model.parameters())
        for arch in ARCH.split("+")
        if isinstance(model := build_model(arch, 11), SegmentationModel)
    ]
    assert [stage["name"] for stage in report["stages"]] == ["1, fpn_resnet18", "2, student"]
    assert [stage["params"] for stage in report["stages"]] == parts
    assert sum(parts) == report["params"]
