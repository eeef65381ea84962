"""The shares of `make coverage`, by value."""

from __future__ import annotations

import json
import sys

from benchmarks.coverage_summary import package_of, summary
from tests import forking


def counted(statements, lines, branches, taken):
    return {
        "num_statements": statements, "covered_lines": lines, "num_branches": branches, "covered_branches": taken,
        "percent_covered": 0.0,
    }  # fmt: skip


def test_a_package_is_a_room_of_kdbench_or_a_folder():
    assert package_of("kdbench/data/open.py") == "kdbench/data"
    assert package_of("kdbench\\cli\\app.py") == "kdbench/cli"
    assert package_of("kdbench/api.py") == "kdbench"
    assert package_of("trainers/recipes/x.py") == "trainers"


def test_lines_and_branches_are_summed_before_they_are_divided():
    rows = summary({
        "kdbench/data/a.py": counted(8, 8, 2, 1),
        "kdbench/data/b.py": counted(90, 45, 0, 0),
        "exporters/c.py": counted(0, 0, 0, 0),
    })  # fmt: skip
    assert [(row["package"], row["share"], row["branch_share"]) for row in rows] == [
        ("exporters", 1.0, 1.0),
        ("kdbench/data", 0.54, 0.5),
        ("all", 0.54, 0.5),
    ]
    assert rows[-1]["num_statements"] == 98


def test_the_command_writes_what_it_prints(tmp_path):
    data = {"meta": {"version": "7.17.5"}, "files": {"kdbench/data/a.py": {"summary": counted(6, 5, 4, 3)}}}
    (tmp_path / "data.json").write_text(json.dumps(data))
    command = [sys.executable, "-m", "benchmarks.coverage_summary", tmp_path / "data.json"]
    done = forking.run([*command, "--tests", "three tests", "--json", tmp_path / "out.json"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2].split()[-2:] == ["80.0%", "75.0%"]
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["coverage"], report["tests"], report["rows"][-1]["share"]) == ("7.17.5", "three tests", 0.8)
    assert json.loads(done.stdout.splitlines()[-1]) == report
