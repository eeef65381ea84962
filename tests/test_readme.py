"""The README says what is true: its table is the results file's, its commands exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from benchmarks.readme_table import BEGIN, END, RENDER, RESULTS, comparison_table, with_table
from kdbench.comparison.results import Comparison
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("results", list(RENDER))
def test_the_tables_are_the_committed_results(results):
    assert with_table(README, results) == README, "run `make readme`"


def test_another_number_in_the_results_is_noticed(tmp_path, monkeypatch):
    import benchmarks.readme_table as script

    document = json.loads((REPOSITORY / RESULTS).read_text(encoding="utf-8"))
    document["rows"][0]["miou"] += 0.001
    (tmp_path / RESULTS).parent.mkdir(parents=True)
    (tmp_path / RESULTS).write_text(json.dumps(document), encoding="utf-8")
    for other in RENDER.keys() - {RESULTS}:
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / other, tmp_path / other)
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    monkeypatch.setattr(script, "REPOSITORY", tmp_path)
    monkeypatch.setattr(sys, "argv", ["readme_table", "--check"])
    with pytest.raises(SystemExit, match="README.md's table differs"):
        script.main()
    monkeypatch.setattr(sys, "argv", ["readme_table"])
    script.main()
    assert comparison_table(RESULTS) in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_markers_must_be_there():
    with pytest.raises(SystemExit, match="expected the markers"):
        with_table("no table here", RESULTS)


def test_no_measured_number_outside_the_table():
    """Milliseconds, mIoU and speed-ups belong to the tables, which are generated."""
    outside = README
    for results in RENDER:
        head, rest = outside.split(BEGIN.format(results.as_posix()))
        outside = head + rest.split(END, 1)[1]
    assert not re.findall(r"\d+(?:\.\d+)? ?(?:ms|mIoU|FPS|x faster)\b", outside)


def test_every_make_target_and_recipe_named_exists():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z][a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_flag_named_exists(kdbench):
    names = (
        "train",
        "sweep",
        "export",
        "compare",
        "choose",
        "package",
        "regress",
        "parity",
        "plot",
        "report",
        "predict",
        "model",
        "doctor",
        "data check",
        "demo",
    )
    commands = {name: kdbench(*name.split(), "--help").out for name in names}
    for line in re.findall(r"^kdbench [^#\n]*", README, re.MULTILINE):
        command = next(name for name in names if line.startswith(f"kdbench {name}"))
        for flag in re.findall(r"--[a-z-]+", line):
            assert flag in commands[command], line


def test_committed_results_are_read_and_name_their_origin():
    files = sorted((REPOSITORY / "results").glob("*.json"))
    assert REPOSITORY / RESULTS in files
    comparison = Comparison.read(REPOSITORY / RESULTS)
    for key in ("hardware", "versions", "git", "command"):
        assert comparison.environment[key]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(home|root|work|tmp|Users)/", text), f"{path.name} holds a path of a machine"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs GNU make")
def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert all(target in done.stdout for target in ("demo", "train-all", "export-all", "compare", "test", "check"))
