"""``kdbench train --from`` and ``--deterministic``: a sidecar has what is needed to train the same again."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version

import pytest
import torch

from tests.exports import read_unsealed
from trainers.losses import cross_entropy


@pytest.fixture(autouse=True)
def deterministic_off():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def past(trained_runs, tmp_path):
    return shutil.copytree(trained_runs / "folder", tmp_path / "past" / "folder")


@pytest.mark.parametrize("method", ["baseline", "combined", "teacher"])
def test_the_same_weights_from_a_sidecar_alone(kdbench, past, tmp_path, method):
    name = "teacher" if method == "teacher" else "student"
    done = kdbench("train", "--from", past / method / f"{name}.json", "--runs", tmp_path / "again")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"the same weights as '{past / method / f'{name}.json'}', bit for bit"
    again = tmp_path / "again" / "folder" / method / f"{name}.safetensors"
    assert again.read_bytes() == (past / method / f"{name}.safetensors").read_bytes()
    sidecar, original = (json.loads((folder / f"{name}.json").read_text()) for folder in (again.parent, past / method))
    assert sidecar["recipe"] == original["recipe"]
    assert "--from" in sidecar["environment"]["command"]


def test_a_further_seed_and_a_time_matched_baseline(kdbench, past, tiny_arguments, tmp_path):
    runs = past.parent
    done = kdbench(
        "train", "--method", "baseline,response,baseline-long", "--seeds", "5", *tiny_arguments, "--runs", runs
    )
    assert done.code == 0, done.err
    for file in ("response/seed-5/student.json", "baseline-long/seed-5/student.json"):
        done = kdbench("train", "--from", past / file, "--runs", tmp_path / "again")
        assert done.code == 0, done.err
        assert "the same weights as" in done.out
    sidecar = json.loads((tmp_path / "again" / "folder" / "baseline-long" / "student.json").read_text())
    assert sidecar["time_matched"] == json.loads((past / file).read_text())["time_matched"]


def test_what_differs_is_named(kdbench, past, tmp_path):
    sidecar = read_unsealed(past / "baseline" / "student.json")
    sidecar["recipe"]["lr"] = 5e-3  # as if another version had trained it
    sidecar["environment"]["versions"]["torch"] = "2.0.0"
    (past / "baseline" / "student.json").write_text(json.dumps(sidecar))
    done = kdbench("train", "--from", past / "baseline" / "student.json", "--runs", tmp_path / "again")
    assert done.code == 0
    last = done.out.splitlines()[-1]
    assert last.startswith(f"other weights than '{past / 'baseline' / 'student.json'}': mIoU ")
    assert last.endswith(f"; between the two: torch 2.0.0 → {version('torch')}")


def edit(path, change):
    sidecar = read_unsealed(path)
    change(sidecar)
    path.write_text(json.dumps(sidecar))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("dataset"), "does not name its dataset, expected what kdbench train wrote"),
        (
            lambda s: s.update(epoch=0, epochs=0, weights="mine.pt"),
            "was not trained, its weights are those of 'mine.pt'",
        ),
        (lambda s: s.pop("teacher"), "does not say which teacher it learnt from"),
        (lambda s: s.update(deterministic={}), "is no sidecar of a training (deterministic: got {}, "),
        (lambda s: s.update(sbd="no"), "is no sidecar of a training (sbd: got 'no', "),
        (lambda s: s.update(unlabelled=3), "is no sidecar of a training (unlabelled: got 3, "),
        (lambda s: s.update(epoch=1), "is of epoch 1 of 2, expected a finished training"),
        (lambda s: s["recipe"].update(lr=-1), "the recipe in"),
        (lambda s: s.update(train_images=9), "was trained on 9 images, dataset 'folder' has 8: name its data"),
        (lambda s: s.update(classes=["a", "b"]), "knows 2 classes, the dataset has 10: name its data with --data-root"),
        (lambda s: s.update(data_root="gone"), "'gone"),
        (lambda s: s["teacher"].update(sha256="0" * 64), "is not the teacher (sha256 000000000000…) that"),
    ],
)
def test_what_cannot_be_repeated_is_one_line(kdbench, past, tmp_path, change, message):
    edit(past / "response" / "student.json", change)
    done = kdbench("train", "--from", past / "response" / "student.json", "--runs", tmp_path / "again")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "again").exists()


def test_a_teacher_that_is_there_serves_again_and_another_is_no_teacher(kdbench, past, tmp_path):
    again = tmp_path / "again"
    for method in ("response", "feature"):
        assert kdbench("train", "--from", past / method / "student.json", "--runs", again).code == 0
    teacher = again / "folder" / "teacher" / "teacher.safetensors"
    assert teacher.read_bytes() == (past / "teacher" / "teacher.safetensors").read_bytes()
    other = (past / "baseline" / "student.safetensors").read_bytes()
    teacher.write_bytes(other)
    done = kdbench("train", "--from", past / "combined" / "student.json", "--runs", again)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert f"is not the teacher of '{past / 'combined' / 'student.json'}': name another folder by --runs" in done.err
    assert teacher.read_bytes() == other


def test_the_original_is_never_replaced_and_other_flags_are_refused(kdbench, past, tmp_path):
    sidecar = past / "baseline" / "student.json"
    done = kdbench("train", "--from", sidecar, "--runs", past.parent)
    assert (done.code, "where its repetition would: name another" in done.err) == (2, True)
    done = kdbench("train", "--from", sidecar, "--runs", tmp_path / "again", "--lr", "1")
    assert (done.code, done.err) == (
        2, f"kdbench: --from takes everything from '{sidecar}', got --lr as well: leave it out\n"
    )  # fmt: skip
    assert "'nothing.json' does not exist" in kdbench("train", "--from", "nothing.json").err
    assert "--method: got none, expected what to train" in kdbench("train").err


def test_deterministic_is_recorded_and_repeated(kdbench, tiny_arguments, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    runs = tmp_path / "runs"
    done = kdbench("train", "--method", "baseline", "--deterministic", *tiny_arguments, "--runs", runs)
    assert done.code == 0, done.err
    sidecar = runs / "folder" / "baseline" / "student.json"
    assert json.loads(sidecar.read_text())["deterministic"] is True
    assert kdbench("train", "--from", sidecar, "--runs", tmp_path / "again").code == 0
    assert kdbench("train", "--method", "baseline", *tiny_arguments, "--runs", tmp_path / "other").code == 0
    assert asked == [True, True, False]


def test_cross_entropy_is_the_same_over_rows_as_over_maps():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 4, 6, generator=generator).requires_grad_()
    labels = torch.randint(0, 5, (2, 8, 12), generator=generator)
    labels[0, :3] = 255
    weights = torch.linspace(0.5, 2, 5)
    found = []
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        loss = cross_entropy(logits, labels, weights)
        found.append((loss, torch.autograd.grad(loss, logits)[0]))
    torch.testing.assert_close(found[0], found[1])
