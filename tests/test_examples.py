"""Every file of examples/ runs, and every block of docs/python-api.md, as a reader would run them."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests import forking
from tests.conftest import REPOSITORY

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
QUICK = ("01_", "02_", "03_", "04_", "06_", "08_")
"""Those that neither train nor time anything."""


SCRIPT = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""``python FILE …`` for ``forking.run``, which has no files."""


started = functools.partial(subprocess.run, capture_output=True, text=True)


def run(*command: object, cwd, start=started) -> str:
    # Of the shell's settings only those that find Python's packages: warnings are errors, as in the tests.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = start([sys.executable, *map(str, command)], cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_forked(*command: object, cwd) -> str:
    """The same without the seconds of importing PyTorch; the slow tests start each example by itself."""
    return run("-c", SCRIPT, *command, cwd=cwd, start=forking.run)


@pytest.fixture(scope="module")
def quick_runs(exported, tmp_path_factory):
    """What 00_make_a_model.py makes, with an untrained student in place of a trained one."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(exported.runs, folder / "runs" / "examples")
    return folder


@pytest.fixture(scope="module")
def made_runs(made_once):
    """The very first example, run."""
    return made_once("examples", lambda folder: run(EXAMPLES[0], cwd=folder))


def test_they_are_short_numbered_and_say_what_they_show():
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(len(EXAMPLES)))
    for path in EXAMPLES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 40, path.name
        assert text.startswith('"""'), path.name
    alone = (REPOSITORY / "examples" / "03_onnxruntime_alone.py").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) (kdbench|exporters|trainers)", alone, re.MULTILINE)


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.name.startswith(QUICK)], ids=lambda p: p.stem)
def test_quick_example(path, quick_runs):
    said = run_forked(path, cwd=quick_runs)
    expected = {
        "01_": "200 images", "02_": "mIoU 0.", "03_": "%", "04_": "have the same class on 50 images",
        "06_": "photo.png: photo-mask.png, photo-overlay.png", "08_": "in the dark",
    }  # fmt: skip
    assert expected[path.name[:3]] in said


def test_onnxruntime_alone_has_the_mask_of_kdbench(quick_runs):
    """The example's own preprocessing is kdbench's."""
    import numpy as np
    from PIL import Image

    import kdbench

    photo = kdbench.open_dataset("shapes", "val")[5].image
    Image.fromarray(photo).save(quick_runs / "photo.png")
    run_forked(REPOSITORY / "examples" / "03_onnxruntime_alone.py", "runs/examples", "photo.png", cwd=quick_runs)
    with kdbench.open_predictor(quick_runs / "runs/examples/shapes/baseline/exports/onnx-fp32/mask.onnx") as predictor:
        expected = predictor.class_map(photo)
    assert np.array_equal(np.asarray(Image.open(quick_runs / "runs/examples/onnxruntime-alone.png")), expected)


@pytest.mark.slow
def test_the_first_makes_what_the_others_use(made_runs):
    for path in EXAMPLES[1:]:
        assert run(path, cwd=made_runs), path.name
    assert (made_runs / "runs/examples/gate.json").exists()
    assert (made_runs / "runs/examples/compare.json").exists()


@pytest.mark.slow
def test_python_api_page(made_runs):
    """All blocks as one script, as in a notebook."""
    page = (REPOSITORY / "docs" / "python-api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    assert "no-such.onnx" in run("-c", "\n".join(blocks), cwd=made_runs).splitlines()[-1]
