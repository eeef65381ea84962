"""Results whose sources changed since are named, where git can tell; nowhere does that fail a check."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from benchmarks.stale_results import OF_THE_PAST, RESULTS, Measured, NoHistoryError, stale
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

WHO = {f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(root, *arguments):
    environment = {**os.environ, **WHO}
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True, env=environment
    )
    return done.stdout.strip()


def commit(root, **texts):
    """Write ``name.py`` below sources/, commit, and return the revision."""
    for name, text in texts.items():
        (root / "sources").mkdir(exist_ok=True)
        (root / "sources" / f"{name}.py").write_text(text)
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", "x")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def root(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "results").mkdir()
    return tmp_path


def measured_at(root, name, revision, **more):
    document = {"schema_version": 1, "environment": {"git": {"revision": revision, "dirty": False}}, **more}
    (root / "results" / name).write_text(json.dumps(document))


def test_a_result_is_stale_when_what_it_depends_on_changed(root):
    first = commit(root, engine="1", model="1", other="1")
    measured_at(root, "speed.json", first)
    results = {"speed.json": Measured(("sources/engine.py", "sources/mo*.py"))}
    commit(root, other="2")
    assert stale(root, results) == {}
    commit(root, model="2")
    assert stale(root, results) == {"speed.json": f"since {first[:12]}: sources/model.py"}
    (root / "sources/engine.py").write_text("not committed yet")
    assert stale(root, results)["speed.json"].endswith(": sources/engine.py, sources/model.py")
    # Changed back is the same code again.
    commit(root, model="1", engine="1")
    assert stale(root, results) == {}


def test_words_and_form_are_no_change(root):
    code = 'def f(a):\n    """Doc."""\n    return a  # as it is\n'
    first = commit(root, code=code, text="text = 'a'\n")
    measured_at(root, "x.json", first)
    results = {"x.json": Measured(("sources/*",))}
    commit(root, code='"""A module."""\n\ndef f(\n    a,\n):\n    """More of it."""\n    return a\n')
    assert stale(root, results) == {}
    commit(root, code=code, text="text = 'b'\n")  # a text that code reads
    assert stale(root, results)["x.json"].endswith("sources/text.py")
    commit(root, code=code.replace("return a", "return -a"), text="text = 'a'\n")
    assert stale(root, results)["x.json"].endswith("sources/code.py")


def test_trainings_count_from_their_own_revision(root):
    trained = commit(root, loop="1", engine="1")
    compared = commit(root, loop="2")
    measured_at(root, "table.json", compared, training={"baseline": {"revision": trained}})
    assert stale(root, {"table.json": Measured(("sources/loop.py",))}) == {}
    with_training = {"table.json": Measured(("sources/engine.py",), training=("sources/loop.py",))}
    assert stale(root, with_training) == {"table.json": f"since {compared[:12]}: sources/loop.py"}


def test_many_files_are_counted_and_unknown_revisions_named(root):
    first = commit(root, a="1", b="1", c="1", d="1", e="1")
    commit(root, a="2", b="2", c="2", d="2", e="2")
    measured_at(root, "x.json", "0" * 40)
    results = {"x.json": Measured(("sources/*",), at=first)}
    assert stale(root, results)["x.json"].endswith("sources/a.py, sources/b.py, sources/c.py and 2 more")
    assert "unknown revision 0000" in stale(root, {"x.json": Measured(("sources/*",))})["x.json"]


def test_without_history_nothing_is_told(root, tmp_path_factory):
    commit(root, a="1")
    second = commit(root, a="2")
    shallow = tmp_path_factory.mktemp("clone") / "shallow"
    git(root, "clone", "-q", "--depth", "1", root.as_uri(), str(shallow))
    with pytest.raises(NoHistoryError, match="shallow"):
        stale(shallow, {})
    inside = root / "unpacked"  # a tarball, unpacked in another project's checkout
    (inside / "results").mkdir(parents=True)
    measured_at(inside, "x.json", second)
    with pytest.raises(NoHistoryError, match="no git checkout"):
        stale(inside, {"x.json": Measured(("sources/*",))})


def test_the_command_reports_and_fails_only_when_asked(tmp_path):
    def run(where, *flags):
        command = [sys.executable, "-m", "benchmarks.stale_results", *flags]
        environment = {**os.environ, "PYTHONPATH": str(where)}
        return subprocess.run(command, cwd=where, capture_output=True, text=True, env=environment)

    for folder in ("benchmarks", "kdbench"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for flags in ((), ("--strict",)):
        done = run(tmp_path, *flags)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "which results are stale cannot be told: this folder is no git checkout\n"
    git(tmp_path, "init", "-q")
    revision = commit(tmp_path)
    (tmp_path / "results").mkdir()
    measured_at(tmp_path, "report-page.json", revision)
    assert run(tmp_path, "--strict").returncode == 0
    (tmp_path / "kdbench/report/charts.py").write_text("")
    assert run(tmp_path).returncode == 0
    done = run(tmp_path, "--strict")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"results/report-page.json: since {revision[:12]}: kdbench/report/charts.py"


def test_every_result_says_what_it_depends_on():
    folder = REPOSITORY / "results"
    files = {path.relative_to(folder).as_posix() for path in [*folder.glob("*.json"), *folder.glob("gpu/*.json")]}
    assert files == RESULTS.keys() | OF_THE_PAST
    for name, measured in RESULTS.items():
        for source in (*measured.sources, *measured.training):
            assert list(REPOSITORY.glob(source)), f"{name} depends on '{source}', which is not there"
