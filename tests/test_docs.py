"""The docs pages say what is true.

Every command of a page that goes through a task (``PAGES``) runs, in the order of its page, on the files that the page
itself shows. Of pages to look things up in (``REFERENCE_PAGES``) some need a GPU, Docker or another system: there, and
everywhere else, commands, flags, make targets and links must exist.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from kdbench.cli import app
from kdbench.data.base import read_image, read_mask
from kdbench.data.shapes import Shapes
from tests.conftest import REPOSITORY
from tests.onnx_models import nchw_logits

DOCS = REPOSITORY / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = (
    "train-on-your-data",
    "does-distillation-pay",
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
REFERENCE_PAGES = (
    "install",
    "faq",
    "how-it-compares",
    "train-at-length",
    "exports",
    "report-and-pictures",
    "commands-and-files",
    "on-an-nvidia-gpu",
    "measured",
)
ELSEWHERE = ("--mixed_precision", "--nproc-per-node", "--ipc", "--cpus")
"""Flags of other programs that pages name by themselves."""
TEXTS = {page: (DOCS / f"{page}.md").read_text(encoding="utf-8") for page in (*PAGES, *REFERENCE_PAGES)}
TEXTS["README"] = (REPOSITORY / "README.md").read_text(encoding="utf-8")


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


def test_every_page_is_followed_or_looked_up_in_and_linked():
    assert {page.stem for page in DOCS.glob("*.md")} == {*PAGES, *REFERENCE_PAGES}
    for page in (*PAGES, *REFERENCE_PAGES):
        assert f"(docs/{page}.md)" in TEXTS["README"], page
        languages = {language for language, _ in BLOCK.findall(TEXTS[page])}
        assert languages <= {"bash", "toml", "python", "diff", "yaml"}, page


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_somewhere(page):
    """Files and headings, as GitHub names them."""
    folder = REPOSITORY if page == "README" else DOCS
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        assert not name or (folder / name).exists(), target
        if heading:
            text = (folder / name).read_text(encoding="utf-8") if name else TEXTS[page]
            titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def flags_of_commands() -> dict[str, set[str]]:
    """Every command of kdbench, as "data check", and the flags that it takes."""
    root = typer.main.get_command(app)
    found = {}
    for name, command in root.commands.items():
        for below, one in (
            {f"{name} {n}": c for n, c in getattr(command, "commands", {}).items()} or {name: command}
        ).items():
            found[below] = {flag for parameter in one.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    return found


def lines_to_type(text: str) -> list[str]:
    """What a page tells people to type: lines of its bash blocks, and code within sentences."""
    blocks = [
        line.split(" # ")[0].strip()
        for language, block in BLOCK.findall(text)
        if language == "bash"
        for line in commands(block)
    ]
    return [*blocks, *re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))]


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_flag_and_target_exists(page):
    known, makefile = flags_of_commands(), (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    every = set.union(*known.values(), {"--version", "--plugin", "--install-completion", "--help"})
    for line in lines_to_type(TEXTS[page]):
        if target := re.match(r"make (?:[A-Z]+=\S+ )*([a-z][a-z-]+)", line):
            assert re.search(rf"^{target[1]}:", makefile, re.MULTILINE), line
        if module := re.search(r"-m benchmarks\.(\w+)", line):
            assert (REPOSITORY / "benchmarks" / f"{module[1]}.py").exists(), line
        if flag := re.match(r"--[a-z-]+", line):
            assert flag[0] in every or flag[0] in ELSEWHERE, line
        if command := re.search(r"\bkdbench (?:--plugin \S+ )?([a-z]+(?: (?:check|describe)\b)?)", line):
            assert command[1] in known, line
            for flag in re.findall(r"(?<!\S)--[a-z-]+", line[command.end() :]):
                assert flag in known[command[1]] or flag == "--help", line


def test_the_check_of_flags_can_fail():
    known = flags_of_commands()
    assert "--keep-float" in known["export"]
    assert "--keep-float" not in known["train"]
    assert {"data check", "data describe", "import"} <= known.keys()
    assert lines_to_type("`kdbench train`\n```bash\nkdbench demo  # all\n# no\n```\n") == [
        "kdbench demo",
        "kdbench train",
    ]


def strings_of_the_code() -> str:
    """Every text in the code, with … for what is put into it."""
    found = []
    for folder in ("kdbench", "trainers", "exporters"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_messages_of_the_faq_are_those_of_the_code():
    messages = re.findall(r"^> (.*)$", TEXTS["faq"], re.MULTILINE)
    assert len(messages) > 30
    code = strings_of_the_code()
    assert [message for message in messages for part in message.split("…") if part.strip("[]() ") not in code] == []


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
def test_does_distillation_pay(workspace, run):
    follow("does-distillation-pay", workspace, run)
    table = json.loads((workspace / "runs/my/compare.json").read_text(encoding="utf-8"))
    assert {gain["on"] for gain in table["improvements"]} == {"val", "new_scenes"}
    assert "matched=time" in {row.get("variant") for row in table["rows"]}


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
