"""A few of `make fuzz`'s kills, and that what looks for their harm would find it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

linux = pytest.mark.skipif(sys.platform != "linux", reason="it adopts what a killed command leaves running")


@pytest.mark.needs("onnxruntime")
@pytest.mark.slow
@linux
def test_six_kills_lose_nothing(tmp_path):
    command = [sys.executable, "-m", "tests.fuzz.kills", "--kills", "6", "--command", "train,report", "--json"]
    done = subprocess.run(
        [*command, tmp_path / "kills.json"], cwd=REPOSITORY, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert found["kills"] == found["at_a_replace"] + found["at_a_random_time"] == 6
    assert min(found["at_a_replace"], found["at_a_random_time"]) > 0  # how they share depends on the machine's speed
    assert found["commands"]["train"]["replaces"] > 10
    harm = (
        "lost_files", "unreadable_trees", "children_left", "left_temporaries_after_the_next_command",
        "next_command_failed", "other_files_than_expected", "other_weights", "of_these_taken_by_a_reader",
    )  # fmt: skip
    assert {key: found[key] for key in harm} == dict.fromkeys(harm, 0)


@pytest.fixture
def runs(trained_runs, tmp_path):
    shutil.copytree(trained_runs, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.mark.needs("onnx")
@pytest.mark.parametrize("name", ["student.json", "student.safetensors", "history.jsonl"])
def test_half_a_file_and_a_lost_one_are_found(runs, name):
    from tests.fuzz.tree_state import hashes, lost, unreadable

    before, path = hashes(runs), f"folder/baseline/{name}"
    assert path in before
    assert (lost(before, before), unreadable(runs, {}, before)) == ([], [])
    content = (runs / path).read_bytes()
    (runs / path).write_bytes(content[: len(content) // 2 - 3])
    (found,) = unreadable(runs, before, hashes(runs))
    assert found.startswith(f"{path}: ")
    (runs / path).unlink()
    assert lost(before, hashes(runs)) == [path]


@pytest.mark.needs("onnx")
def test_a_model_apart_from_its_sidecar_is_found(runs):
    """As a kill between its two replaces leaves it; no reader takes it."""
    from tests.fuzz.tree_state import apart

    folder = runs / "folder"
    assert apart(runs) == ([], [])
    shutil.copy(folder / "response/student.safetensors", folder / "baseline/student.safetensors")
    assert apart(runs) == (["folder/baseline/student.safetensors"], [])


@linux
def test_notes_count_replaces_below_the_root_alone(tmp_path):
    code = (
        "import os, sys\n"
        "from tests.fuzz.at_replace import Watch\n"
        "Watch(sys.argv[1] + '/root', sys.argv[1] + '/notes', os.getpid(), 2, sys.argv[2]).start()\n"
        "os.mkdir(sys.argv[1] + '/root')\n"
        "for name in ('aside', 'root/a', 'root/b', 'root/c'):\n"
        "    open(sys.argv[1] + '/new', 'w').close()\n"
        "    os.replace(sys.argv[1] + '/new', sys.argv[1] + '/' + name)\n"
    )
    for when, there in (("before", ["a"]), ("after", ["a", "b"])):
        place = tmp_path / when
        place.mkdir()
        done = subprocess.run([sys.executable, "-c", code, str(place), when], cwd=REPOSITORY)
        assert done.returncode == -9
        assert sorted(path.name for path in (place / "root").iterdir()) == there
        assert (place / "notes").read_text() == "replace a\nreplace b\n"


@linux
def test_a_plan_hits_every_replace_before_and_after_where_there_are_kills_enough():
    from tests.fuzz.kills import Known, plan

    known = {name: Known("", name, 1.0, ["a"] * count, {}) for name, count in (("train", 10), ("report", 2))}
    kills = plan(known, 100, seed=3)
    assert len(kills) == 100
    assert kills == plan(known, 100, seed=3) != plan(known, 100, seed=4)
    for name, count in (("train", 20), ("report", 4)):
        hit = [kill.replace for kill in kills if kill.command == name and kill.replace is not None]
        assert len(set(hit)) == count
        assert sum(kill.command == name and kill.replace is None for kill in kills) >= 10


def test_figures_count_what_was_found():
    from tests.fuzz.kill_summary import BAD, summary

    clean = {
        "command": "train", "number": 0, "over": True, "at_replace": (3, "after"), "drawn_again": 1, "children_s": 0.5,
        "temporaries": 1, "inconclusive": False, "apart": ["a"], **dict.fromkeys(BAD, ()),
    }  # fmt: skip
    harmful = {**clean, "at_replace": None, "lost": ["a", "b"], "children": ["ray"], "failed": "why", "left": ["x"]}
    found = summary([clean, harmful], {"train": (19, 3.2)})
    assert (found["kills"], found["at_a_replace"], found["at_a_random_time"], found["drawn_again"]) == (2, 1, 1, 2)
    assert (found["lost_files"], found["children_left"], found["next_command_failed"]) == (2, 1, 1)
    assert (found["left_temporaries"], found["left_temporaries_after_the_next_command"]) == (2, 1)
    assert found["models_apart_from_their_sidecar"] == 2
    assert found["commands"]["train"]["moments_hit_of_replaces"] == 1
    assert found["commands"]["train"]["moments_of_replaces"] == 38
