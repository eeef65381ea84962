"""A results file is measured again by the command that it records, and stays as it was where that fails."""

from __future__ import annotations

import json

import pytest

from benchmarks.remeasure import command_of, remeasure

WRITES = """
import json, sys
from pathlib import Path
{before}
Path(sys.argv[2]).write_text(json.dumps({{"seconds": 2}}))
{after}
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "results").mkdir()
    for name, before, after in (
        ("sound", "", ""),
        ("broken", "", "raise SystemExit(3)"),
        ("idle", "raise SystemExit(0)", ""),
    ):
        (tmp_path / f"{name}.py").write_text(WRITES.format(before=before, after=after))
        write(tmp_path, f"{name}.json", f"python -m {name} --json results/{name}.json")
    return tmp_path


def write(root, name, command):
    document = {"schema_version": 1, "seconds": 1, "environment": {"command": command}}
    (root / "results" / name).write_text(json.dumps(document))


def seconds(root, name):
    return json.loads((root / "results" / name).read_text())["seconds"]


def test_each_is_measured_and_one_that_fails_costs_no_other(root, capfd):
    assert not remeasure(root, ["broken.json", "idle.json", "sound.json"])
    said = capfd.readouterr().out
    assert "results/broken.json: its command ended with 3 after" in said
    assert "results/idle.json: its command did not write it" in said
    assert "results/sound.json: measured in" in said
    assert [seconds(root, f"{name}.json") for name in ("broken", "idle", "sound")] == [1, 1, 2]
    write(root, "sound.json", "python -m sound --json results/sound.json")
    assert remeasure(root, ["sound.json"])


@pytest.mark.parametrize(
    "command",
    [
        "python -m a; python -m b --json results/x.json",
        "python -m a --json results/y.json",
        "make soak results/x.json",
        "",
    ],
)
def test_what_is_no_whole_command_is_left_to_a_person(root, command, capfd):
    write(root, "x.json", command)
    assert command_of(root, "x.json") is None
    assert not remeasure(root, ["x.json"])
    assert "results/x.json: what it recorded is no whole command: see results/README.md" in capfd.readouterr().out


def test_a_kdbench_command_runs_in_this_environment(root):
    write(root, "x.json", "kdbench compare --json results/x.json")
    assert command_of(root, "x.json")[1:] == ["-m", "kdbench", "compare", "--json", "results/x.json"]
