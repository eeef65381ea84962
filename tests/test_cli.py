"""The command line itself: help, version, errors, data check."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from kdbench import __version__
from tests.conftest import REPOSITORY

COMMANDS = ["train", "export", "compare", "plot", "predict", "model", "doctor", "demo", "data check"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(kdbench, command):
    done = kdbench(*command.split(), "--help")
    assert done.code == 0
    assert "Usage" in done.out


@pytest.mark.needs("pydantic", "rich")
def test_version_and_module_entry():
    done = subprocess.run(
        [sys.executable, "-m", "kdbench", "--version"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"kdbench {__version__}")


def test_unknown_command_exits_2(kdbench):
    assert kdbench("distill").code == 2


def test_a_wrong_folder_is_one_line(kdbench, tmp_path):
    done = kdbench(
        "train", "--method", "baseline", "--dataset", "camvid", "--data-root", tmp_path, "--runs", tmp_path / "runs"
    )
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert "does not exist: point --data-root at the CamVid folder" in done.err
    assert not (tmp_path / "runs").exists()


def test_data_root_is_asked_for(kdbench):
    done = kdbench("data", "check", "--dataset", "folder")
    assert done.code == 2
    assert done.err == (
        "kdbench: --data-root: needed for --dataset folder, the folder that holds images/train images/val masks/train "
        "masks/val with equal file names, and classes.txt with one class a line\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--method", "baseline", "--dataset", "cityscape"],
        ["data", "check", "--dataset", "cityscape"],
        ["export", "--method", "baseline", "--dataset", "cityscape"],
        ["compare", "--dataset", "cityscape"],
        ["report", "--dataset", "cityscape"],
    ],
    ids=" ".join,
)
def test_a_misspelt_dataset_lists_those_that_there_are(kdbench, tmp_path, command):
    done = kdbench(*command, *(() if command[0] == "data" else ("--runs", tmp_path)))
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert re.match(
        r"kdbench: --dataset: got 'cityscape', expected one of (\w+, )*camvid(, \w+)*, or the path of a dataset file \(.toml\)$",
        line,
    )


def test_data_check_of_a_good_folder(kdbench, folder_dataset):
    done = kdbench("data", "check", "--dataset", "folder", "--data-root", folder_dataset)
    assert done.code == 0
    assert "folder train: 8 images" in done.out
    assert "64x96" in done.out


def test_data_check_names_every_bad_file(kdbench, folder_dataset, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(folder_dataset, root)
    broken = root / "images" / "train" / "train1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    shutil.copy(root / "images" / "val" / "val0.png", root / "masks" / "val" / "val2.png")  # an RGB mask
    done = kdbench("data", "check", "--dataset", "folder", "--data-root", root)
    assert done.code == 2
    assert "train1.png" in done.out
    assert "val2.png" in done.out
    assert "has 2 problems, listed above" in done.err


def test_training_on_a_bad_mask_names_file_and_values(kdbench, folder_dataset, tmp_path, tiny_recipe):
    import numpy as np
    from PIL import Image

    root = tmp_path / "data"
    shutil.copytree(folder_dataset, root)
    mask = np.zeros((64, 96), dtype=np.uint8)
    mask[:2] = [[17], [99]]
    Image.fromarray(mask).save(root / "masks" / "train" / "train3.png")
    done = kdbench(
        "train", "--method", "baseline", "--dataset", "folder", "--data-root", root,
        "--runs", tmp_path / "runs", "--recipe", tiny_recipe,
    )  # fmt: skip
    assert done.code == 2
    assert "train3.png' holds the values [17, 99], expected 0 to 9" in done.err.splitlines()[-1]
    assert "--accept-data" in done.err.splitlines()[-1]


def test_runs_that_is_a_file_is_one_line(kdbench, tmp_path):
    (tmp_path / "runs").write_text("mine", encoding="utf-8")
    done = kdbench("train", "--method", "baseline", "--runs", tmp_path / "runs")
    assert done.code == 2
    assert "runs' is a file, expected a folder" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert (tmp_path / "runs").read_text(encoding="utf-8") == "mine"


def test_a_path_that_no_file_system_has_is_one_line(kdbench, tmp_path):
    (tmp_path / "my.toml").write_text(
        f'images = "{"x" * 5000}"\nmasks = "m/{{stem}}.png"\nsplit = {{ val = 0.5 }}\n[classes]\na = 0\nb = 1\n'
    )
    done = kdbench("data", "check", "--dataset", tmp_path / "my.toml")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "is no path (File name too long): mend it" in done.err
    assert len(done.err) < 200
