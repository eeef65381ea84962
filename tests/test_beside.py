"""Temporary folders beside what they will replace: those of killed writers go, those of living ones stay."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kdbench.runs.beside import MARK, remove_abandoned, remove_abandoned_once
from kdbench.runs.files import atomic_folder, atomic_group, atomic_path, write_text
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows locks no folder")
WRITER = """
import sys, time
from pathlib import Path
from kdbench.runs.files import {way}
with {way}(Path(sys.argv[1])) as temporary:
    temporary.{write}
    print("ready", flush=True)
    time.sleep(60)
"""
WAYS = {
    "atomic_path": "write_text('half')",
    "atomic_group": "write_text('half')",
    "atomic_folder": "joinpath('a').touch()",
}


@pytest.fixture
def writing():
    """Start a process that is writing a path in one of the ways; it ends with the test."""
    started = []

    def start(way, path):
        code = WRITER.format(way=way, write=WAYS[way])
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("way", WAYS)
def test_what_a_killed_writer_left_goes_with_the_next_and_a_living_ones_stays(way, writing, tmp_path):
    killed, _ = writing(way, tmp_path / "a.txt"), writing(way, tmp_path / "b.txt")
    own = tmp_path / ".mine-abcd1234.txt"
    own.touch()
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.glob(f"*{MARK}*"))) == 2
    remove_abandoned_once.cache_clear()
    write_text(tmp_path / "another.txt", "whole")
    (left,) = tmp_path.glob(f"*{MARK}*")
    assert left.name.startswith(".b.txt")
    assert own.exists()


@pytest.mark.parametrize("way", [atomic_path, atomic_group])
def test_nothing_is_left_of_an_error(way, tmp_path):
    def write():
        with way(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert not list(tmp_path.iterdir())


def test_a_folder_killed_between_its_two_replaces_is_put_back(tmp_path):
    """The new one is not in its place yet, and the old one no longer is."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "old").touch()
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from kdbench.runs.files import atomic_folder\n"
        "replace = os.replace\n"
        "os.replace = lambda *paths: (replace(*paths), os.kill(os.getpid(), 9))\n"
        "with atomic_folder(Path(sys.argv[1])) as made:\n"
        "    (made / 'new').touch()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "package")], cwd=REPOSITORY)
    assert done.returncode == -9
    assert not (tmp_path / "package").exists()
    remove_abandoned(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["package", "old"]
    with atomic_folder(tmp_path / "package") as made:
        (made / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["package", "new"]


def test_a_folder_taken_away_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    from kdbench.runs import beside

    lock, taken = beside._lock, []

    def late(folder, wait):
        if not taken:
            taken.append(folder)
            folder.rmdir()
        return lock(folder, wait)

    monkeypatch.setattr(beside, "_lock", late)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert taken


def test_what_a_killed_training_left_beside_what_it_found_of_the_data_goes_with_the_next(tmp_path):
    from kdbench.data.remembered import Remembered

    (tmp_path / f".data.json{MARK}abcd1234").mkdir()
    Remembered(tmp_path / "data.json")
    assert not list(tmp_path.iterdir())
