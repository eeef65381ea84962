"""Every command of the docs pages runs, in the order of its page, on the files that the page itself shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from kdbench.data.base import read_image, read_mask
from kdbench.data.shapes import Shapes
from tests.conftest import REPOSITORY
from tests.onnx_models import nchw_logits

DOCS = REPOSITORY / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = (
    "train-on-your-data",
    "bring-your-onnx-file",
    "read-the-table",
    "gate-in-ci",
    "deploy",
    "bring-your-model",
    "add-a-backend",
    "add-a-method",
    "add-a-dataset",
    "add-a-student",
    "python-api",
)


@pytest.fixture
def workspace(tmp_path, folder_dataset):
    """What a reader has: the source, my-data/, photos/, and `kdbench` and `python` on the path."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file() and not name.startswith("results/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tmp_path / name)
    shutil.copytree(folder_dataset, tmp_path / "my-data")
    (tmp_path / "photos").mkdir()
    for index in range(2):
        Image.fromarray(Shapes("val")[index].image).save(tmp_path / "photos" / f"{index}.jpg")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, command in (("python", ""), ("kdbench", "-P -m kdbench")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def run(workspace):
    """Run a line as a shell does, in the workspace."""
    environment = {
        **os.environ, "PATH": f"{workspace / 'programs'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(workspace), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    environment.pop("PYTEST_XDIST_WORKER", None)  # a page's own pytest is none of this one's processes

    def run_line(line: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=workspace, env=environment, capture_output=True, text=True
        )
        assert done.returncode in codes, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    return run_line


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of a page's code blocks."""
    return [(m[1], m[2]) for m in BLOCK.finditer((DOCS / f"{page}.md").read_text(encoding="utf-8"))]


def commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def write_file(workspace: Path, text: str) -> None:
    """A block whose first line is a comment with a path is that file."""
    name = re.match(r"# (\S+/?\S*\.\w+)\n", text)
    assert name, f"expected a first line '# path/of/the/file', got {text[:60]!r}"
    path = workspace / name[1]
    assert path.resolve().is_relative_to(workspace)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.removeprefix(name[0]), encoding="utf-8")


def shorten(workspace: Path) -> None:
    """Epochs and sizes for seconds in place of hours; everything else is as the page and the recipes have it."""
    for recipe in (workspace / "my-recipe.toml", workspace / "trainers" / "recipes" / "demo.toml"):
        if recipe.exists():
            text = re.sub(r"^epochs = \d+", "epochs = 1", recipe.read_text(encoding="utf-8"), flags=re.MULTILINE)
            text = re.sub(r"^size = .*", "size = [64, 64]", text, flags=re.MULTILINE)
            text = re.sub(r"^images = .*", "images = 16", text, flags=re.MULTILINE)
            text = re.sub(r"^batch_size = .*", "batch_size = 4", text, flags=re.MULTILINE)
            recipe.write_text(text.replace("fcn_resnet50", "fpn_resnet18"), encoding="utf-8")


def follow(page: str, workspace: Path, run) -> list[str]:
    """Do what a page says; the commands that ran."""
    done = []
    for language, text in blocks(page):
        if language == "bash":
            shorten(workspace)
            for line in commands(text):
                # So short a measurement may be inconclusive (3), and an unchanged file may not be slower (1).
                gate = line.startswith("kdbench regress")
                shorter = line.replace("--budget 120", "--budget 10").replace("--seeds 0,1,2", "--seeds 0,1")
                shorter = shorter.replace("fcn_resnet50", "fpn_resnet18")  # as shorten() has it
                run(shorter, codes=(0, 3) if gate else (0,))
                done.append(line)
        elif language == "diff":
            (workspace / "page.diff").write_text(text, encoding="utf-8")
            run("patch -p1 --fuzz=0 < page.diff")
        else:
            write_file(workspace, text)
    return done


def test_every_page_is_followed_and_linked():
    assert {page.stem for page in DOCS.glob("*.md")} == set(PAGES)
    texts = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "README.md", *DOCS.glob("*.md"))]
    for page in PAGES:
        assert f"(docs/{page}.md)" in texts[0], page
    for text in texts[1:]:
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or (DOCS / target).is_file(), target
        assert {language for language, _ in BLOCK.findall(text)} <= {"bash", "toml", "python", "diff", "yaml"}


@pytest.mark.slow
def test_train_on_your_data(workspace, run):
    follow("train-on-your-data", workspace, run)
    runs = workspace / "members" / "folder"
    for method in ("baseline", "response", "feature", "combined", "cwd", "dist", "baseline-long"):
        assert len([*runs.glob(f"{method}/**/student.safetensors")]) == 2, method
    taught = [json.loads(path.read_text()) for path in (workspace / "runs").glob("folder/response/**/student.json")]
    assert [about["teacher"]["arch"] for about in taught] == 2 * ["fpn_resnet18+student"]
    assert (runs / "report.html").stat().st_size > 1e6
    assert len([*(runs / "predictions").rglob("*-overlay.png")]) == 2


@pytest.mark.slow
def test_read_the_table(workspace, run, trained_runs):
    shutil.copytree(trained_runs, workspace / "runs")
    run("kdbench export --method baseline --format onnx,openvino --precision fp32,int8 --allow-drift")
    follow("read-the-table", workspace, run)
    assert (workspace / "runs" / "folder" / "compare.csv").exists()


@pytest.mark.slow
def test_deploy(workspace, run, trained_runs):
    shutil.copytree(trained_runs, workspace / "runs")
    run("kdbench export --method baseline --format onnx,openvino --precision fp32,int8 --allow-drift")
    follow("deploy", workspace, run)
    assert json.loads((workspace / "choice.json").read_text(encoding="utf-8"))["chosen"]["method"] == "baseline"
    assert read_mask(workspace / "mask.png").shape == read_image(workspace / "photos" / "0.jpg").shape[:2]


@pytest.mark.slow
@pytest.mark.needs("openvino", "nncf")
def test_bring_your_onnx_file(workspace, run):
    nchw_logits(workspace / "theirs.onnx", classes=10, height=64, width=96)
    follow("bring-your-onnx-file", workspace, run)
    table = json.loads((workspace / "runs/folder/compare.json").read_text(encoding="utf-8"))
    assert {row["status"] for row in table["rows"]} == {"ok", "unsupported"}
    assert {row["reference"] for row in table["rows"]} == {"onnx fp32"}


@pytest.mark.slow
def test_gate_in_ci(workspace, run, trained_runs):
    shutil.copytree(trained_runs, workspace / "runs")
    run("kdbench export --method baseline --format onnx")
    shutil.copytree(workspace / "runs", workspace / "main" / "runs")
    for name in ("old.onnx", "new.onnx", "model.onnx"):
        shutil.copy(workspace / "runs/folder/baseline/exports/onnx-fp32/mask.onnx", workspace / name)
    run("git init -q && git add . && git add -f model.onnx && git -c user.name=a -c user.email=a@b.c commit -qm base")
    run("git update-ref refs/remotes/origin/main HEAD")
    follow("gate-in-ci", workspace, run)
    workflow = (workspace / ".github/workflows/latency.yml").read_text(encoding="utf-8")
    steps = re.search(r"run: \|\n(.*?)      - if", workflow, re.DOTALL)[1].replace("${{ github.base_ref }}", "main")
    for line in steps.strip().splitlines():
        run(line.replace("--json", "--budget 10 --json"), codes=(0, 3))
    (summary,) = re.findall(r"run: (cat .*)", workflow)
    run(f"GITHUB_STEP_SUMMARY=summary.md; {summary}")
    assert "baseline.onnx" in (workspace / "summary.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.needs("segmentation_models_pytorch", "timm", "transformers")
def test_bring_your_model(workspace, run):
    assert any("--trust-code" in line for line in follow("bring-your-model", workspace, run))
    run("kdbench train --method baseline --dataset folder --data-root my-data --recipe my-recipe.toml --trust-code")
    table = (workspace / "runs/folder/compare.txt").read_text(encoding="utf-8")
    assert "student=my_nets.py-small-width-8" in table
    assert "failed" not in table


@pytest.mark.slow
@pytest.mark.parametrize("page", ["add-a-backend", "add-a-method"])
def test_extend_kdbench(workspace, run, page):
    follow(page, workspace, run)
    table = (workspace / "runs/shapes/compare.txt").read_text(encoding="utf-8")
    assert {"add-a-backend": "onnx-reference mIoU", "add-a-method": "Attention Transfer"}[page] in table
    assert "failed" not in table
    # What the page adds is kdbench's own quality.
    run("python -m ruff check . && python -m ruff format --check kdbench trainers && python -m mypy")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["add-a-dataset", "add-a-student"])
def test_declare_what_kdbench_trains(workspace, run, page):
    """By a plugin, then as a part of kdbench, where the last command of the page needs no plugin."""
    follow(page, workspace, run)
    dataset, row = {"add-a-dataset": ("tiles", "Baseline"), "add-a-student": ("shapes", "Response-Based")}[page]
    table = (workspace / "runs" / dataset / "compare.txt").read_text(encoding="utf-8")
    assert row in table
    assert "failed" not in table
    run("python -m ruff check . && python -m ruff format --check kdbench && python -m mypy")
