"""README.md and docs/measured.md say what is true: what is measured in them is the results files'."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.label_tables import few_labels_table
from benchmarks.readme_figures import percent
from benchmarks.readme_picture import GAP, TITLE, WIDTH, picture
from benchmarks.readme_table import ENGINES, FOLDS, LABELS, MEASURED, PAGES, PARTS, PAYS, README, RESULTS
from kdbench.comparison.results import Comparison
from kdbench.data.base import Sample
from tests.conftest import REPOSITORY

TEXTS = {page: (REPOSITORY / page).read_text(encoding="utf-8") for page in PAGES}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.page.stem}-{part.name}-{part.results[0].stem}")
def test_what_is_measured_is_the_committed_results(part):
    assert part.written_into(TEXTS[part.page], REPOSITORY) == TEXTS[part.page], "run `make readme`"


def test_a_readme_is_read_in_two_minutes():
    assert len(TEXTS[README].splitlines()) < 150


def other_score(document):
    document["rows"][0]["miou"] += 0.001


def other_label_score(document):
    for row in document["rows"]:
        row["test"]["miou"] += 0.001


def longer_training(document):
    document["entries"][0]["train_seconds"] += 3600


@pytest.mark.parametrize(
    ("page", "results", "change"),
    [(README, LABELS, other_label_score), (MEASURED, RESULTS, other_score), (PAYS, LABELS, longer_training)],
    ids=["readme", "measured", "pays"],
)
def test_another_number_in_the_results_is_noticed(page, results, change, tmp_path, monkeypatch):
    import benchmarks.readme_table as script

    for path in {*PAGES, *(results for part in PARTS for results in part.results)}:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, tmp_path / path)
    document = json.loads((REPOSITORY / results).read_text(encoding="utf-8"))
    change(document)
    (tmp_path / results).write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(script, "REPOSITORY", tmp_path)
    monkeypatch.setattr(script, "PAGES", (page,))
    monkeypatch.setattr(sys, "argv", ["readme_table", "--check"])
    with pytest.raises(SystemExit, match=f"{page}: its .* differs from .*{results.as_posix()}"):
        script.main()
    assert (tmp_path / page).read_text(encoding="utf-8") == TEXTS[page]
    monkeypatch.setattr(sys, "argv", ["readme_table"])
    script.main()
    text = (tmp_path / page).read_text(encoding="utf-8")
    assert text != TEXTS[page]
    for part in (part for part in PARTS if part.page == page and results in part.results):
        assert part.render(tmp_path, *part.results) in text


def test_the_table_has_what_was_measured_on_test_and_on_validation():
    rows = json.loads((REPOSITORY / LABELS).read_text(encoding="utf-8"))["rows"]
    fewest = min(row["labelled"] for row in rows)
    dist = next(row for row in rows if (row["labelled"], row["method"]) == (fewest, "dist"))
    (line,) = (line for line in few_labels_table(REPOSITORY, LABELS, ENGINES, FOLDS).splitlines() if "(DIST) |" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    for cell, split in ((cells[2], "test"), (cells[4], "val")):
        found = dist[split]
        assert cell.startswith(f"{found['difference']:+.4f} ± {found['difference_standard_error']:.4f}")
        assert cell.endswith("gain") == (found["verdict"] == "gain")
    engines = json.loads((REPOSITORY / ENGINES).read_text(encoding="utf-8"))["rows"]
    torch = next(row for row in engines if (row["method"], row["backend"]) == ("dist", "torch"))
    assert cells[5] == f"{torch['miou']:.4f}"


@pytest.mark.parametrize(
    ("share", "digits", "text"), [(0.99768, 2, "99.76%"), (0.9999996, 4, "99.9999%"), (1, 2, "100.00%")]
)
def test_what_is_at_least_so_much_is_rounded_down(share, digits, text):
    assert percent(share, digits) == text


def test_the_picture_is_small():
    for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXTS[README]):
        assert (REPOSITORY / name).stat().st_size < 300_000


def test_labels_and_predictions_are_drawn_in_the_colours_of_the_dataset():
    image, label = np.full((2, 2, 3), 7, np.uint8), np.array([[0, 1], [1, 255]], np.uint8)
    drawn = picture([Sample("a", image, label)], {"student": [1 - label % 2]}, [(9, 8, 7), (1, 2, 3)])
    assert drawn.size == (3 * (WIDTH + GAP) + GAP, TITLE + WIDTH + GAP)
    lefts = [GAP + column * (WIDTH + GAP) for column in range(3)]
    top = [drawn.getpixel((left, TITLE)) for left in lefts]
    assert top == [(7, 7, 7), (9, 8, 7), (1, 2, 3)]
    assert drawn.getpixel((lefts[1] + WIDTH - 1, TITLE + WIDTH - 1)) == (255, 255, 255)  # ignored


def test_markers_must_be_there():
    for part in PARTS:
        with pytest.raises(SystemExit, match="expected the markers"):
            part.written_into("no table here", REPOSITORY)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_measured_number_outside_the_generated_parts(page):
    """Milliseconds, mIoU and speed-ups belong to what is generated."""
    outside = TEXTS[page]
    for part in PARTS:
        if part.page == page:
            outside = "".join(part.split(outside))
    assert not re.findall(r"\d+(?:\.\d+)? ?(?:ms|mIoU|FPS|x faster|times)\b", outside)
    assert not re.findall(r"\b0\.\d{3,}", outside)


def test_ci_calls_what_the_readme_says():
    """CI's lines are the README's, and these are a block of their own that a person can copy."""
    (block,) = re.findall(r"## Two commands\n\n```bash\n(.*?)```", TEXTS[README], re.DOTALL)
    workflow = (REPOSITORY / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    for line in block.splitlines():
        assert f"run: {line.split(' #')[0].strip()}\n" in workflow, line


@pytest.mark.parametrize("file", [".github/workflows/ci.yml", ".ci/run"])
def test_both_descriptions_of_ci_install_by_the_lock_and_run_the_same_checks(file):
    lines = re.findall(r"^ *(?:- run: )?(make .*)$", (REPOSITORY / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert lines[:4] == ["make install LOCKED=1", "make check", "make test", "make test-slow"]


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
