"""Files that are no weights, or would do harm: one line each, and nothing in them ever runs."""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import torch

from kdbench.errors import BadInput
from kdbench.models.registry import build_model
from trainers.weights import load_weights

ARCH = "fpn_resnet18"
UNSAFE = ("weights_only", "safe_globals", "trust", "allowlist", "TORCH_FORCE")


@pytest.fixture(scope="module")
def state():
    return build_model(ARCH, 5).state_dict()


@pytest.fixture(scope="module")
def model():
    return build_model(ARCH, 5)


@pytest.fixture
def refused(model, tmp_path):
    """Save a value, or take a file that is there, and return the one line with which it is refused."""

    def run(saved=None, path=None, **options):
        path = path or tmp_path / "x.pth"
        if saved is not None:
            torch.save(saved, path, **options)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(BadInput) as caught:
            load_weights(model, ARCH, str(path), "--weights")
        line = str(caught.value)
        assert line.startswith((f"--weights '{path}'", f"--weights: '{path}'"))
        assert len(line.splitlines()) == 1
        assert len(line.replace(str(path), "")) < 400
        assert not any(word in line for word in UNSAFE)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
        return line

    return run


class Payload:
    """Runs a command when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


class PythonPayload(Payload):
    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("payload", [Payload, PythonPayload])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_a_payload_does_not_run(refused, state, tmp_path, payload, zipped, beside):
    harm = payload(tmp_path / "harm")
    line = refused({"state_dict": state, "epoch": harm} if beside else harm, _use_new_zipfile_serialization=zipped)
    name = "eval" if payload is PythonPayload else f"{os.name}.system"
    assert f"(it holds {name}, which is code, and nothing but tensors is read: save it with torch.save(" in line
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickle.dumps(harm))  # it would have
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_does_not_run(refused, tmp_path, protocol):
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Payload(tmp_path / "harm"), protocol))
    assert "cannot be read as a state dict (" in refused()
    assert not (tmp_path / "harm").exists()


def test_an_archive_that_begins_as_a_pickle_is_not_opened(refused, tmp_path, monkeypatch):
    """torch would take it for a tar of its first years, whose reader was once a way around its care."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    head = b"\x80\x02"
    (tmp_path / "x.pth").write_bytes(head.ljust(257, b"\0") + b"ustar" + bytes(300))
    assert "(neither a file of torch.save nor safetensors)" in refused()


def test_the_command_refuses_a_payload_in_one_line(kdbench, tiny_arguments, state, tmp_path):
    torch.save({"model": state, "args": Payload(tmp_path / "harm")}, tmp_path / "x.pth")
    runs = tmp_path / "runs"
    done = kdbench("train", "--method", "teacher", "--weights", tmp_path / "x.pth", "--runs", runs, *tiny_arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert f"x.pth' cannot be read as a state dict (it holds {os.name}.system, which is code" in line
    assert not any(word in line for word in UNSAFE)
    assert not (tmp_path / "harm").exists()


def test_the_command_refuses_a_list_in_one_line(kdbench, tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    done = kdbench(
        "train", "--method", "teacher", "--dataset", "shapes", "--teacher", ARCH, "--weights", tmp_path / "list.pth",
        "--runs", tmp_path / "runs", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 2
    assert done.err == (
        f"kdbench: --teacher-weights '{tmp_path / 'list.pth'}' holds a list, expected a state dict: save it with "
        "torch.save(model.state_dict(), FILE)\n"
    )


def test_a_trainings_arguments_and_scores_beside_the_weights_are_nobodys_harm(model, state, tmp_path):
    about = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs")),
        "best": np.float64(0.5),
        "history": np.arange(3.0),
        "rng": torch.get_rng_state(),
    }
    for zipped in (True, False):
        torch.save({"state_dict": state, **about}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        assert load_weights(model, ARCH, str(tmp_path / "x.pth")).complete


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (3, "holds an int, expected a state dict: save it with torch.save(model.state_dict(), FILE)"),
        ({}, "holds nothing, an empty dict, expected a state dict"),
        (torch.ones(3), "holds a Tensor, expected a state dict"),
        ({"epoch": 3, "y" * 500: 1}, "holds no tensors by name, but epoch, yyyy"),
        ({0: torch.ones(3)}, "holds no tensors by name, but 0, expected a state dict"),
        ({"optimizer": {"exp_avg": torch.ones(3)}}, "holds no tensors by name, but optimizer"),
        ({"z" * 500: torch.ones(3)}, f"it has '{'z' * 79}…' 3, there is 'stem.0.weight' 64x3x7x7"),
        ({"a\nb\x1b[31m": torch.ones(3)}, "it has 'a?b?[31m' 3"),
        (torch.nn.Conv2d(3, 3, 1), "it holds torch.nn.modules.conv.Conv2d, which is code"),
    ],
)
def test_what_is_no_state_dict_is_named(refused, saved, said):
    assert said in refused(saved)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: torch.full_like(v, float("nan")), "'layer1.0.conv1.weight' has values that are NaN or infinite"),
        (lambda v: v.double() * 1e300, "'layer1.0.conv1.weight' has values that are NaN or infinite"),
        (lambda v: v.int(), "'layer1.0.conv1.weight' is int32, expected floating-point numbers"),
        (lambda v: v + 1j, "'layer1.0.conv1.weight' is complex64, expected floating-point numbers"),
        (lambda v: v.to("meta"), "'layer1.0.conv1.weight' is on the meta device, with a shape and without values"),
        pytest.param(
            lambda v: v.to_sparse(),
            "'layer1.0.conv1.weight' is quantised or sparse",
            marks=pytest.mark.skipif(
                torch.__version__ < "2.12", reason="this PyTorch reads no sparse tensor as weights"
            ),
        ),
    ],
)
def test_a_tensor_without_usable_numbers_is_named(refused, state, change, said):
    key = "layer1.0.conv1.weight"
    assert said in refused({**state, key: change(state[key])})


def test_a_value_that_is_not_finite_and_not_used_does_no_harm(model, state, tmp_path):
    torch.save({**state, "loss.weight": torch.tensor([float("nan")])}, tmp_path / "x.pth")
    assert load_weights(model, ARCH, str(tmp_path / "x.pth")).unused == ("loss.weight",)


def test_files_that_are_none(refused, tmp_path):
    path = tmp_path / "x.pth"
    path.touch()
    assert "(it is empty)" in refused()
    with path.open("wb") as file:
        file.truncate(20 * 10**9)  # takes no room, and is not read
    assert "(neither a file of torch.save nor safetensors)" in refused()
    path.unlink()
    assert "does not exist" in refused()
    path.mkdir()
    assert "is a folder, expected a file" in refused()
    os.mkfifo(tmp_path / "pipe.pth")
    assert "is a pipe or a device, expected a file" in refused(path=tmp_path / "pipe.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_file_that_is_cut_short(refused, state, tmp_path, zipped, share):
    path = tmp_path / "x.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    os.truncate(path, int(share * path.stat().st_size))
    assert "cannot be read as a state dict (it is cut short, damaged, or no file of weights)" in refused()


def test_safetensors_that_claim_more_than_they_have(refused, tmp_path):
    path = tmp_path / "x.safetensors"
    header = b'{"a":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}'
    for claimed in (len(header), 10**12):
        path.write_bytes(claimed.to_bytes(8, "little") + header + b"\0" * 8)
        assert "cannot be read as a state dict (it is cut short" in refused(path=path)


def test_other_archives(refused, state, tmp_path):
    path, packed = tmp_path / "x.pth", tmp_path / "packed.pth"
    torch.save(state, path)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    assert "(its archive was packed again, with compression" in refused(path=packed)
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    assert "(a zip archive, but not one of torch.save)" in refused(path=tmp_path / "x.npz")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_program_is_no_state_dict(refused, tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 3, 1)), tmp_path / "x.pth")
    assert "(it is a TorchScript archive, which is a program: save it with torch.save(" in refused()
