"""Every package that kdbench needs says its licence, and the committed list has each."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.licences import REPOSITORY, UNKNOWN, licence, licences, runtime_requirements
from kdbench.runs.files import read_toml

PROJECT = read_toml(REPOSITORY / "pyproject.toml", "pyproject.toml")["project"]


def test_no_installed_runtime_dependency_has_an_unknown_licence():
    rows, absent = licences(runtime_requirements(PROJECT))
    assert [row["name"] for row in rows if row["licence"] == UNKNOWN] == []
    found = {row["name"] for row in rows} | set(absent)
    assert {"torch", "pydantic", "annotated-types"} <= found  # annotated-types is pydantic's own requirement
    assert "ruff" not in found  # of dev alone


def test_the_committed_list_has_every_package_of_pyproject():
    committed = json.loads((REPOSITORY / "results" / "licences.json").read_text(encoding="utf-8"))
    assert all(row["licence"] for row in committed["rows"])
    known = {row["name"] for row in committed["rows"]} | set(committed["not_installed"])
    named = {canonicalize_name(Requirement(line).name) for line in runtime_requirements(PROJECT)}
    assert named <= known, "make licences writes the list again"


@pytest.fixture
def package(tmp_path):
    """A package's metadata with these lines, as it lies on disk when it is installed."""

    def make(*lines, **files):
        folder = tmp_path / "thing-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("\n".join(("Metadata-Version: 2.4", "Name: thing", "Version: 1.0", *lines)))
        for name, text in files.items():
            (folder / name).write_text(text)
        (folder / "RECORD").write_text("".join(f"{folder.name}/{path.name},,\n" for path in [*folder.iterdir()]))
        return metadata.PathDistribution(folder)

    return make


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["License-Expression: MIT", "License: something else"], "MIT"),
        (["License: Copyright 2002\n        All rights", "Classifier: License :: OSI Approved :: BSD License"], "BSD License"),
        (["Classifier: License :: OSI Approved", "License: OSI Approved :: Apache 2.0"], "Apache 2.0"),
        (["Classifier: License :: Other/Proprietary License"], "Other/Proprietary License"),
        (["License: UNKNOWN"], UNKNOWN),
        ([], UNKNOWN),
    ],
)  # fmt: skip
def test_what_a_licence_is_read_from(package, lines, expected):
    assert licence(package(*lines)) == expected


def test_the_licence_file_is_the_last_resort(package):
    assert licence(package("License: UNKNOWN", LICENSE="\nApache Software License 2.0\n\nCopyright")) == (
        "Apache Software License 2.0"
    )
