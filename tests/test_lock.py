"""The lock of CI holds what pyproject.toml asks for, in the versions of constraints.txt, and each file by its hash."""

from __future__ import annotations

import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kdbench.runs.files import read_toml
from tests.conftest import REPOSITORY

LOCK = (REPOSITORY / "requirements-ci.lock").read_text(encoding="utf-8")
APART = {"torch", "torchvision"}
PINNED = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


def pins(text: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in PINNED.findall(text)}


def test_it_holds_what_the_extras_of_ci_ask_for():
    project = read_toml(REPOSITORY / "pyproject.toml", "pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    needed = [Requirement(line) for line in (*project["dependencies"], *extras["cpu"], *extras["dev"])]
    locked = pins(LOCK)
    for requirement in needed:
        name = canonicalize_name(requirement.name)
        assert (name in APART) != (name in locked), f"{name}: make lock writes it again"
        assert name in APART or requirement.specifier.contains(locked[name]), name


def test_its_versions_are_those_that_were_tested_together():
    constraints = pins((REPOSITORY / "constraints.txt").read_text(encoding="utf-8"))
    locked = pins(LOCK)
    assert {name: locked[name] for name in locked.keys() & constraints.keys()} == {
        name: constraints[name] for name in locked.keys() & constraints.keys()
    }
    assert locked.keys() - constraints.keys() <= {"setuptools"}, "a version that nothing pins"


def test_every_package_has_hashes_and_no_address():
    body = [line for line in LOCK.splitlines() if not line.startswith("#")]
    packages = re.split(r"\n(?=\S)", "\n".join(body).strip())
    assert len(packages) == len(pins(LOCK)) > 80
    for package in packages:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", package), package
    assert "://" not in LOCK
    assert not [line for line in body if line.startswith("-")]
