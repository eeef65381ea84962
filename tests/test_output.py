"""What every command prints: one JSON document with ``--json -``, no progress with ``--quiet``, colours on request."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from kdbench.cli.app import app
from kdbench.progress import Bar, progress_bar
from tests import forking
from tests.conftest import REPOSITORY

COMMANDS = {name.name or name.callback.__name__ for name in app.registered_commands} | {"data check"}


def run(*arguments, **environment):
    command = [sys.executable, "-m", "kdbench", *arguments]
    return forking.run(command, env={**os.environ, **environment}, timeout=300)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_the_three_and_an_example(kdbench, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = kdbench(*command.split(), "--help").out
    for expected in ("--quiet", "--json", f"kdbench {command}"):
        assert expected in text.split("Example")[-1]


JSON_COMMANDS = {
    "model": (["model", "--size", "64x64"], "params"),
    "doctor": (["doctor"], "rows"),
    "data check": (["data", "check", "--dataset", "folder", "--data-root", "{data}"], "splits"),
    "train": (["train", "--method", "all", "--runs", "{runs}", "{tiny}", "--resume"], "models"),
    "export": (["export", "--method", "baseline", "--format", "onnx", "--runs", "{runs}"], "exports"),
    "compare": (["compare", "--method", "baseline", "--backend", "torch", "--rounds", "10", "--runs", "{runs}"], "rows"),
    "plot": (["plot", "--method", "all", "--runs", "{runs}"], "figures"),
    "report": (["report", "--pictures", "1", "--runs", "{runs}"], "missing"),
    "predict": (["predict", "--method", "baseline", "--runs", "{runs}", "{data}/images/val"], "written"),
}  # fmt: skip
"""The commands of seconds; choose, package, parity, regress and sweep have theirs in their own tests, and demo is these
together."""


@pytest.fixture(scope="module")
def fill_in(trained_runs, tiny_arguments, folder_dataset, tmp_path_factory):
    import shutil

    runs = tmp_path_factory.mktemp("output") / "runs"
    shutil.copytree(trained_runs, runs)

    def fill(arguments):
        filled = []
        for argument in arguments:
            if argument == "{tiny}":
                filled += map(str, tiny_arguments)
            else:
                filled.append(argument.format(runs=runs, data=folder_dataset))
        return filled

    return fill


@pytest.mark.parametrize("command", JSON_COMMANDS)
def test_json_on_stdout_is_one_line_and_the_rest_on_stderr(kdbench, command, fill_in):
    arguments, key = JSON_COMMANDS[command]
    done = kdbench(*fill_in(arguments), "--json", "-")
    assert (done.code, done.out.count("\n")) == (0, 1), done.err
    document = json.loads(done.out)
    assert document["schema_version"] == 1
    assert key in document
    assert document[key] or key == "missing"


def test_the_document_of_a_training_names_its_checkpoints(kdbench, fill_in):
    done = kdbench(*fill_in(JSON_COMMANDS["train"][0]), "--json", "-")
    models = json.loads(done.out)["models"]
    assert [model["method"] for model in models][-4:] == ["baseline", "response", "feature", "combined"]
    assert all(os.path.isfile(model["checkpoint"]) and 0 <= model["miou"] <= 1 for model in models)


def test_the_document_of_failures_is_there_too(kdbench, folder_dataset, tmp_path):
    import shutil

    shutil.copytree(folder_dataset, tmp_path / "data")
    (tmp_path / "data" / "images" / "val" / "val0.png").write_bytes(b"cut")
    flags = ("--dataset", "folder", "--data-root", tmp_path / "data")
    done = kdbench("data", "check", *flags, "--json", tmp_path / "check.json")
    assert done.code == 2
    problems = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))["problems"]
    assert len(problems) == 1
    assert "val0.png" in problems[0]


def test_a_bad_file_is_refused_before_the_work(kdbench, tiny_arguments, tmp_path):
    (tmp_path / "taken.json").mkdir()
    for given, reason in (("models.yaml", "expected a file that ends in .json"), ("taken.json", "is a folder")):
        done = kdbench(
            "train", "--method", "all", "--runs", tmp_path / "runs", *tiny_arguments, "--json", tmp_path / given
        )
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert reason in done.err
        assert not (tmp_path / "runs").exists()


def test_quiet_shows_no_progress(kdbench, monkeypatch, folder_dataset):
    original = Bar.__init__
    monkeypatch.setattr(
        Bar, "__init__",
        lambda self, title, total, progress, every_seconds=0.0: original(self, title, total, progress, every_seconds),
    )  # fmt: skip
    command = ("data", "check", "--dataset", "folder", "--data-root", folder_dataset)
    loud = kdbench(*command)
    quiet = kdbench(*command, "--quiet")
    assert "check folder val: " in loud.err
    assert " s left" in loud.err
    assert (quiet.out, quiet.err) == (loud.out, "")
    assert "KDBENCH_QUIET" not in os.environ
    monkeypatch.setenv("KDBENCH_QUIET", "1")
    assert kdbench(*command).err == ""


def test_progress_without_rich_is_plain_lines(monkeypatch, capsys):
    """Also on a terminal, where rich would draw a bar."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    for module in ("rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, module, None)
    with progress_bar("read", 2) as bar:
        bar._every_seconds = 0.0
        bar.advance(text="image 7")
    assert re.fullmatch(r"read: 1/2, \d+ s left  image 7\n", capsys.readouterr().err)


def on_a_terminal(*arguments, **environment):
    """What a person sees: stdout and stderr are one pseudo-terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "kdbench", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, cwd=REPOSITORY,
        env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm-256color", **environment},
    )  # fmt: skip
    os.close(theirs)
    seen, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                seen += os.read(ours, 65536)
            except OSError:  # Linux's way of saying that the other end is closed
                break
        elif process.poll() is not None:
            break
    os.close(ours)
    assert process.wait(timeout=60) == 0, seen
    return seen.decode(errors="replace")


COLOUR = re.compile(r"\x1b\[(\d+;)*[39][0-7]m")
"""A foreground colour."""


@pytest.mark.needs("pydantic", "rich")
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")
def test_a_terminal_shows_a_bar_with_eta_and_colours_unless_no_color(folder_dataset):
    arguments = ("data", "check", "--dataset", "folder", "--data-root", str(folder_dataset))
    seen = on_a_terminal(*arguments)
    assert "ETA" in seen
    assert "8/8" in seen
    assert COLOUR.search(seen)
    plain = on_a_terminal(*arguments, NO_COLOR="1")
    assert "ETA" in plain
    assert not COLOUR.search(plain)
    assert "ETA" not in on_a_terminal(*arguments, "--quiet")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("kdbench re", {"regress", "report"}),
        ("kdbench compare --back", {"--backend"}),
        ("kdbench compare --backend torch,onn", {"torch,onnx"}),
        ("kdbench export --format ", {"onnx", "trt", "openvino", "all"}),
        ("kdbench data check --dataset cam", {"camvid"}),
    ],
)
def test_the_shell_completes(words, offered):
    """As bash asks: the words so far, and the index of the one under the cursor."""
    count = len(words.split(" "))
    program = "import sys; from kdbench.cli import main; sys.argv = ['kdbench']; main()"
    asked = {"_KDBENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count - 1)}
    done = forking.run([sys.executable, "-c", program], env={**os.environ, **asked})
    assert set(done.stdout.split()) == offered, done.stderr


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_keeps_count_and_eta(monkeypatch, width):
    import io

    import rich.console

    import kdbench.progress

    drawn, real = io.StringIO(), rich.console.Console
    monkeypatch.setattr(
        rich.console, "Console", lambda **_: real(file=drawn, width=width, force_terminal=True, color_system=None)
    )
    title, text = "seed 3: baseline, response, feature, dist", "epoch 56/104  loss " + "baseline 0.5124  " * 6
    with kdbench.progress.progress_bar(title, 2288) as bar:
        bar.advance(1234, text)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.getvalue()).replace("\r", "\n").splitlines()
    last = next(line for line in reversed(lines) if line.strip())
    assert "1234/2288" in last
    assert "ETA" in last
    assert len(last) <= width
    assert "seed 3:" in last
