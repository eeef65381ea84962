"""The wheel that people install: it holds every file of the packages, and works where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import kdbench
from tests.conftest import REPOSITORY

PACKAGES = ("kdbench", "trainers", "exporters", "benchmarks")

pytestmark = pytest.mark.needs("setuptools")


def done(*command: object, cwd: Path, codes: tuple[int, ...] = (0,)) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("PYTHONPATH", "PYTEST_XDIST_WORKER"):
        environment.pop(name, None)
    ran = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert ran.returncode in codes, f"{command}\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"
    return ran.stdout


def tracked() -> list[str]:
    """Files of the working tree, new ones too, without what git ignores."""
    listing = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    return [name for name in done(*listing, cwd=REPOSITORY).splitlines() if (REPOSITORY / name).is_file()]


@pytest.fixture(scope="module")
def wheel(made_once):
    """Built from a copy, because building writes into the source."""

    def make(folder):
        for name in tracked():
            if name.startswith(PACKAGES) or "/" not in name:
                (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, folder / "source" / name)
        options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
        done(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, folder / "source", cwd=folder)

    (path,) = made_once("wheel", make).glob("*.whl")
    return path


def test_it_holds_every_file_of_the_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        metadata = archive.read(f"kdbench-{kdbench.__version__}.dist-info/METADATA").decode()
    expected = {name for name in tracked() if name.split("/")[0] in PACKAGES and "/" in name}
    assert len(expected) > 100
    assert expected <= held
    assert {name.split("/")[0] for name in held} == {*PACKAGES, f"kdbench-{kdbench.__version__}.dist-info"}
    assert "License-Expression: Apache-2.0" in metadata
    assert f"kdbench-{kdbench.__version__}.dist-info/licenses/LICENSE" in held


def test_the_version_is_said_once_more_where_it_must_be():
    assert f"## {kdbench.__version__}\n" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {kdbench.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f'version = "{kdbench.__version__}"\n' in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """An environment with the wheel in it, that sees this one's packages but not its kdbench: bin/."""
    folder = tmp_path_factory.mktemp("installed")
    done(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    # A path in a .pth file: its own .pth files, of an editable install above all, are not read.
    (packages / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    options = ("--no-deps", "--no-index", "--ignore-installed", "--quiet")
    done(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    where = done(python, "-c", "import kdbench, benchmarks; print(kdbench.__file__, benchmarks.__file__)", cwd=folder)
    assert all(Path(path).is_relative_to(packages) for path in where.split())
    return folder / "bin"


@pytest.mark.slow
def test_it_works_outside_the_checkout(programs, exported, tmp_path):
    assert "--quiet" in done(programs / "kdbench", "demo", "--help", cwd=tmp_path)
    assert kdbench.__version__ in done(programs / "kdbench", "--version", cwd=tmp_path)
    assert "ONNX Runtime" in done(programs / "kdbench", "doctor", cwd=tmp_path)
    assert json.loads(done(programs / "kdbench", "model", "--json", "-", cwd=tmp_path))["arch"] == "student"
    for name in ("a.onnx", "b.onnx"):
        shutil.copy(exported.export("baseline", "onnx", "fp32", "mask"), tmp_path / name)
    sides = ("--baseline", "a.onnx", "--candidate", "b.onnx")
    done(programs / "kdbench", "regress", *sides, "--budget", 10, "--threads", 1, cwd=tmp_path, codes=(0, 3))
    verdict = json.loads((tmp_path / "regress.json").read_text(encoding="utf-8"))["verdict"]
    assert verdict in ("pass", "inconclusive")
    cases = ("--method", "baseline", "--backend", "onnx", "--rounds", 20, "--threads", 1, "--json", "suite.json")
    said = done(programs / "python", "-m", "benchmarks.latency_suite", "--runs", exported.runs, *cases, cwd=tmp_path)
    assert "baseline-onnx-fp32-mask-b1" in said
