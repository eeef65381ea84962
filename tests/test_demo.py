"""``kdbench demo`` as a person runs it, with one seed: what it says first and last, what it leaves, and what it shows."""

from __future__ import annotations

import json
import sys

import pytest

from kdbench.comparison.results import Comparison
from tests import forking


@pytest.mark.slow
def test_from_the_first_line_to_the_report(tmp_path):
    command = [sys.executable, "-m", "kdbench", "demo", "--runs", str(tmp_path / "runs"), "--seeds", "3"]
    done = forking.run(command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("A few minutes on two cores, no download.")
    folder = tmp_path / "runs" / "materials"
    assert f"Open {(folder / 'report.html').as_posix()} in a browser" in done.stdout
    assert done.stdout.rstrip().endswith("kdbench train --method all --dataset my.toml --seeds 0,1,2")
    assert (folder / "report.html").stat().st_size > 1e6

    comparison = Comparison.read(folder / "compare.json")
    torch = {row.method: row for row in comparison.rows if row.backend == "torch"}
    assert {method: (row.labelled, row.unlabelled) for method, row in torch.items()} == {
        "baseline": (64, 0), "response": (64, 436), "feature": (64, 436)
    }  # fmt: skip
    assert torch["baseline"].miou > 0.4
    assert torch["response"].miou > torch["baseline"].miou
    teacher = json.loads((folder / "teacher" / "teacher.json").read_text())
    assert (teacher["train_images"], "labelled_images" in teacher) == (1000, False)
    assert teacher["miou"] > torch["response"].miou
