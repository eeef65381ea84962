"""A dataset layout and an architecture from files outside: known to every command without another edit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from kdbench.data.open import DATASETS
from tests import forking
from tests.conftest import REPOSITORY
from trainers.recipe import Recipe

PLUGINS = REPOSITORY / "tests" / "plugins"
TILES, TINY = PLUGINS / "my_dataset.py", PLUGINS / "my_architecture.py"
JOIN = ("--plugin", TILES, "--plugin", TINY)
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def run(*arguments):
    """A command of kdbench in a process of its own, so that what joins there stays there."""
    done = forking.run([sys.executable, "-m", "kdbench", *arguments], env={**os.environ, "KDBENCH_PLUGINS": ""})
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"


def in_process(program, *arguments):
    """What a program prints with both plugins joined, as JSON."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "KDBENCH_PLUGINS": os.pathsep.join(map(str, (TILES, TINY)))}
    return json.loads(forking.run(command, env=environment, check=True).stdout)


@pytest.fixture(scope="module")
def tiles(folder_dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("tiles")
    for split in ("train", "val"):
        (root / split).mkdir()
        for image in (folder_dataset / "images" / split).iterdir():
            shutil.copy(image, root / split / image.name)
            shutil.copy(folder_dataset / "masks" / split / image.name, root / split / f"{image.stem}_mask.png")
    return root


@pytest.fixture(scope="module")
def trained(made_once, tiles):
    """Teacher and two students of six convolutions on tiles, two epochs."""

    def make(runs):
        recipe = runs.parent / f"{runs.name}.toml"
        recipe.write_text(
            "size = [64, 64]\nepochs = 2\nbatch_size = 4\nvalidate_every = 2\njitter = 0.2\nstudent = 'tiny'\n"
            "[teacher]\narch = 'tiny'\n",
            encoding="utf-8",
        )
        run(
            *JOIN, "train", "--method", "teacher,baseline,response,feature", "--dataset", "tiles", "--data-root", tiles,
            "--recipe", recipe, "--runs", runs, "--device", "cpu",
        )  # fmt: skip

    return made_once("plugins", make)


TOGETHER = """
import contextlib, io, json, os, sys
from kdbench.cli import main
answers = []
for arguments, environment in json.loads(sys.argv[1]):
    sys.argv, code = ["kdbench", *arguments], 0
    os.environ.update(environment)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    for name in environment:
        del os.environ[name]
    answers.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """(name → exit code, stdout, stderr) of commands with both plugins: all in one process, torch imported once."""
    runs = tmp_path_factory.mktemp("runs")
    train = ("train", "--method", "baseline", "--runs", runs)
    commands = {
        "dataset": (*train, "--dataset", "tile"),
        "data-root": (*train, "--dataset", "tiles"),
        "student": (*train, "--student", "small"),
        "size": (*train, "--student", "tiny", "--size", "72x64"),
        "arch": ("model", "--arch", "tinyy"),
        "model": ("model", "--arch", "tiny", "--size", "64x96"),
        "train --help": ("train", "--help"),
        "model --help": ("model", "--help"),
    }
    listed = [([str(part) for part in (*JOIN, *command)], {}) for command in commands.values()]
    options = ("--dataset t", "--student t", "--teacher t")
    for option in options:
        words = " ".join(map(str, ("kdbench", *JOIN, "train", option)))
        asked = {"_KDBENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        listed.append(([], asked))
    environment = {**os.environ, "COLUMNS": "200", "KDBENCH_PLUGINS": ""}
    done = forking.run([sys.executable, "-c", TOGETHER, json.dumps(listed)], env=environment, check=True)
    return dict(zip((*commands, *options), json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            "dataset",
            "--dataset: got 'tile', expected one of shapes, materials, camvid, voc2012, folder, cityscapes, ade20k, tiles",
        ),
        (
            "data-root",
            "--data-root: needed for --dataset tiles, the folder that holds train/ and val/, in each NAME.png",
        ),
        ("student", "--student: got 'small', expected one of student, fcn_resnet50, fpn_resnet18"),
        ("size", "--size: got 72x64, tiny takes multiples of 16: for example 64x64"),
        ("arch", "architecture: got 'tinyy', expected one of student, fcn_resnet50"),
    ],
)
def test_errors_list_what_joined(ask, asked, said):
    code, _, err = ask[asked]
    assert (code, said in err.splitlines()[-1]) == (2, True), err


def test_a_dataset_without_a_recipe_says_whose_it_gets(ask):
    assert ask["data-root"][2].splitlines()[0] == (
        "kdbench: --dataset tiles has no recipe of its own: taking 'folder'"
    )  # fmt: skip


def test_help_and_completion_know_what_joined(ask):
    shown = ask["train --help"][1]
    assert "shapes, materials, camvid, voc2012, folder, cityscapes, ade20k, tiles" in shown
    assert "student, student_lite0, student_fast, student_lite0_fast, tiny;" in shown
    in_one_line = " ".join(ask["model --help"][1].replace("│", " ").split())
    assert "student_lite0_fast, tiny, or several with +" in in_one_line
    networks = ["tiny", "timm:", "torchvision:", "transformers:"]
    for option, offered in (("--dataset t", ["tiles"]), ("--student t", networks), ("--teacher t", networks)):
        assert ask[option][1].split() == offered, ask[option][2]


def test_a_new_student_is_neither_the_first_teacher_nor_the_usual_student(ask):
    shown = ask["train --help"][1]
    assert "fcn_resnet50, fpn_resnet18, lraspp_mobilenet_v3_large, fpn_efficientnet_lite2, tiny, others" in shown
    assert Recipe().student.arch == "student"


def test_model_describes_it(ask):
    assert "stride 16" in ask["model"][1]
    assert "32 x 4 x 6" in ask["model"][1]


@pytest.mark.slow
def test_from_training_to_report(trained, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)
    sidecar = json.loads((runs / "tiles/student=tiny/baseline/student.json").read_text(encoding="utf-8"))
    assert (sidecar["arch"], sidecar["dataset"]) == ("tiny", "tiles")
    assert sidecar["input"] == {"mean": list(MEAN), "std": list(STD), "range": 1, "space": "RGB"}
    # An untrained student's classes are close to each other, so that rounding changes more of them than in earnest.
    run(
        *JOIN, "export", "--method", "all", "--format", "onnx", "--output", "mask,logits", "--runs", runs,
        "--allow-drift",
    )  # fmt: skip
    run(*JOIN, "compare", "--backend", "torch,onnx", "--rounds", "10", "--runs", runs)
    table = json.loads((runs / "tiles/compare.json").read_text(encoding="utf-8"))
    rows = {(row["method"], row["backend"]): row for row in table["rows"]}
    for method in ("baseline", "response", "feature"):
        assert rows[method, "onnx"]["status"] == "ok"
        assert rows[method, "onnx"]["miou"] == pytest.approx(rows[method, "torch"]["miou"], abs=0.01)
    run(*JOIN, "report", "--runs", runs)
    assert (runs / "tiles/report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_every_way_normalises_as_the_architecture_says(trained, tmp_path):
    """Logits of torch, of ONNX Runtime, and by hand; the mask from uint8; and what the ONNX file says of itself."""
    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)
    run(*JOIN, "export", "--method", "baseline", "--format", "onnx", "--output", "logits", "--runs", runs)
    got = in_process(
        """
import json, sys
from pathlib import Path
import numpy as np, onnx, torch
from kdbench.backends.load import load_backend
from kdbench.models.deployed import MaskModel
from kdbench.models.registry import load_model
folder = Path(sys.argv[1])
image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
model, _ = load_model(folder / "student.safetensors", "")
x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
with torch.inference_mode():
    wanted = model(x).numpy()
    mask = MaskModel(model)(torch.from_numpy(image)[None]).numpy()
onnx_file = folder / "exports/onnx-fp32/logits.onnx"
differences = []
for name, path in (("torch", folder / "student.safetensors"), ("onnx", onnx_file)):
    backend = load_backend(name, path, output="logits")
    differences.append(float(np.abs(backend.infer(backend.prepare(image)) - wanted).max()))
about = json.loads({p.key: p.value for p in onnx.load(onnx_file).metadata_props}["kdbench"])
print(json.dumps([differences, float((mask == wanted.argmax(1)).mean()), float(np.ptp(wanted)), about["normalisation"]]))
""",
        runs / "tiles" / "student=tiny" / "baseline",
    )
    differences, same, spread, normalisation = got
    assert max(differences) < 1e-4 < spread
    assert same > 0.999
    assert normalisation == {"mean": list(MEAN), "std": list(STD), "range": 1, "space": "RGB"}


def test_batches_are_normalised_as_asked():
    """By hand, without and with jitter: what is drawn is in units of ImageNet's std, whatever the network's."""
    from kdbench.data.normalisation import IMAGENET, Input
    from trainers.augmentation import Augmentation, augment

    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3).repeat(1, 3, 1, 1)
    labels = torch.zeros(1, 1, 3, dtype=torch.uint8)
    still = Augmentation(
        torch.ones(1), torch.ones(1), torch.zeros(1, 2), torch.ones(1, 1, 1, 1), torch.zeros(1, 3, 1, 1)
    )
    bright = still._replace(shade=torch.full((1, 3, 1, 1), 0.5))
    wanted = Input(MEAN, STD)
    got, _ = augment(pixels, labels, still, False, wanted)
    np.testing.assert_allclose(got[0, 0, 0].numpy(), [-1.0, 128 / 127.5 - 1, 1.0], rtol=1e-6)
    brighter, _ = augment(pixels, labels, bright, False, wanted)
    added = (brighter - got)[0, :, 0, 0].numpy()
    np.testing.assert_allclose(added, 0.5 * np.array(IMAGENET.std) / 0.5, rtol=1e-5)


def test_what_a_data_root_holds_is_said_on_its_page():
    table = (REPOSITORY / "docs" / "train-on-your-data.md").read_text(encoding="utf-8").replace("`", "")
    for layout in (layout for layout in DATASETS if layout.file is None):  # files are those that other tests opened
        assert f"| {layout.name} | {layout.holds or 'nothing'}" in table, layout.name


@pytest.mark.parametrize(("plugin", "page"), [(TILES, "add-a-dataset"), (TINY, "add-a-student")])
def test_the_pages_show_these_files(plugin, page):
    assert plugin.read_text(encoding="utf-8") in (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")


def test_declarations_import_nothing_heavy():
    """Naming an architecture or a dataset must not wait for torch or numpy."""
    known = subprocess.run(
        [
            sys.executable, "-c",
            "import sys, kdbench.cli\nfrom kdbench.cli.app import NAMES\n"
            "assert all(names() for names in NAMES.values())\n"
            "print([m for m in ('torch', 'numpy', 'PIL', 'torchvision', 'pydantic') if m in sys.modules])",
        ],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert known.stdout.strip() == "[]"
