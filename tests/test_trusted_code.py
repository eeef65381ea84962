"""A checkpoint alone never runs code: what is refused, what is agreed to, and by which word."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from kdbench.models import code
from kdbench.models.code import TRUSTED, code_of
from kdbench.models.network import Network
from kdbench.models.registry import tried
from kdbench.runs.files import sha256
from tests.conftest import REPOSITORY

SOURCE = (REPOSITORY / "tests" / "networks" / "pyramid.py").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def nothing_agreed(monkeypatch):
    monkeypatch.setenv(TRUSTED, "")


@pytest.fixture(scope="module")
def own(tmp_path_factory, folder_dataset):
    """A folder with a network's file that leaves a trace whenever it is run, and a recipe of one epoch."""
    folder = tmp_path_factory.mktemp("own")
    trace = folder / "ran"
    (folder / "nets.py").write_text(
        f"import pathlib\npathlib.Path({str(trace)!r}).write_text('x')\n{SOURCE}", encoding="utf-8"
    )
    (folder / "one.toml").write_text("size = [64, 96]\nepochs = 1\nbatch_size = 4\n[teacher]\narch = 'fpn_resnet18'\n")
    return folder


@pytest.fixture
def trained(own, folder_dataset, kdbench, monkeypatch):
    monkeypatch.chdir(own)
    if not (own / "runs").exists():
        done = kdbench(
            "train", "--method", "baseline", "--dataset", "folder", "--data-root", folder_dataset, "--recipe",
            "one.toml", "--student", "nets.py:pyramid(width=8)",
        )  # fmt: skip
        assert done.code == 0, done.err
        monkeypatch.setenv(TRUSTED, "")
    shutil.rmtree(own / "copy", ignore_errors=True)
    shutil.copytree(own / "runs", own / "copy")
    (own / "ran").unlink(missing_ok=True)
    for name in [name for name in sys.modules if name.startswith("kdbench_network_")]:
        monkeypatch.delitem(sys.modules, name)  # as in a process of its own
    return own


@pytest.mark.parametrize(
    "command",
    [
        ("export", "--method", "baseline"),
        ("predict", "--method", "baseline", "images"),
        ("train", "--from", "copy/folder/student=nets.py-pyramid-width-8/baseline/student.json", "--runs", "again"),
    ],
)
def test_a_run_alone_runs_nothing(trained, kdbench, folder_dataset, command):
    where = () if "--runs" in command else ("--runs", "copy")
    command = [str(folder_dataset / "images" / "val") if part == "images" else part for part in command]
    done = kdbench(*command, *where)
    digest = sha256(trained / "nets.py")[:16]
    assert done.code == 2
    assert f"function pyramid of 'nets.py' (sha256 {digest}…)" in done.err
    assert "read that file first, then add --trust-code" in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert not (trained / "ran").exists()


def test_compare_keeps_the_rows_of_others(trained, kdbench):
    done = kdbench("compare", "--runs", "copy", "--backend", "torch", "--rounds", 10, "--json", "-")
    row = json.loads(done.out)["rows"][0]
    assert (row["status"], row["variant"]) == ("failed", "student=nets.py-pyramid-width-8")
    assert "add --trust-code" in row["reason"]
    assert not (trained / "ran").exists()


def test_agreed_to(trained, kdbench):
    done = kdbench("export", "--method", "baseline", "--runs", "copy", "--trust-code")
    assert done.code == 0, done.err
    assert (trained / "ran").exists()
    # From now on the bytes are ONNX: no code is needed.
    (trained / "ran").unlink()
    done = kdbench(
        "compare", "--runs", "copy", "--backend", "torch,onnx", "--rounds", 10, "--trust-code", "--json", "-"
    )
    rows = json.loads(done.out)["rows"]
    assert [(row["backend"], row["status"]) for row in rows] == [("torch", "ok"), ("onnx", "ok")]
    assert rows[1]["agreement_with_torch"] >= 0.999


def test_a_changed_file_is_another_network(trained, kdbench):
    before = sha256(trained / "nets.py")[:16]
    text = (trained / "nets.py").read_text()
    (trained / "nets.py").write_text(text + "# changed\n")
    try:
        done = kdbench("export", "--method", "baseline", "--runs", "copy", "--trust-code")
        now = sha256(trained / "nets.py")[:16]
    finally:
        (trained / "nets.py").write_text(text)
    assert done.code == 2
    assert f"{now}… now, {before}… then" in done.err
    assert not (trained / "ran").exists()


def test_a_recipe_names_no_code_by_itself(own, kdbench, folder_dataset, monkeypatch):
    monkeypatch.chdir(own)
    (own / "ran").unlink(missing_ok=True)
    (own / "evil.toml").write_text((own / "one.toml").read_text() + "[student]\narch = 'nets.py:pyramid'\n")
    arguments = (
        "train", "--method", "baseline", "--dataset", "folder", "--data-root", folder_dataset, "--recipe", "evil.toml",
        "--runs", "of-recipe",
    )  # fmt: skip
    done = kdbench(*arguments)
    assert (done.code, (own / "ran").exists()) == (2, False)
    assert "--trust-code" in done.err
    assert kdbench(*arguments, "--trust-code").code == 0


def test_a_package_is_found_without_running_it(tmp_path, monkeypatch):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    assert code_of("mine.nets:pyramid") == ("mine.nets", "pyramid", sha256(package / "nets.py"))
    (package / "__init__.py").write_text("")
    code.trust(code_of("mine.nets:pyramid"))
    assert set(tried(Network("mine.nets:pyramid"), 3, (64, 64), "student").taps) == {"low", "mid", "high"}
