"""What ``kdbench regress`` shows: on a screen, in Markdown and in its picture, and what it says before it starts."""

from __future__ import annotations

import io
import json

import matplotlib.figure
import pytest
from rich.console import Console

from kdbench.comparison.latency import UNSTABLE_STEAL
from kdbench.regress.blocks import Settings, Trial, shortest_block_s, warning_of_budget
from kdbench.regress.picture import draw
from kdbench.regress.record import Recording
from kdbench.regress.rule import Rule
from kdbench.regress.summary import as_markdown, print_summary
from tests.conftest import REPOSITORY

FILE = REPOSITORY / "tests/golden/regress.json"


@pytest.fixture
def recording():
    return Recording.read(FILE)


def twice(recording, slower):
    """The recording with a second cell, of which every call of the candidate takes ``slower`` times the baseline's."""
    first = recording.cells[0]
    second = first.model_copy(deep=True, update={"name": "baseline/openvino-int8/mask"})
    for block in second.blocks:
        for round_ in block.rounds:
            base = round_.calls_ms[round_.order.index("baseline")]
            round_.calls_ms = [[ms * (slower if arm == "candidate" else 1) for ms in base] for arm in round_.order]
    second.looks = [(len(second.blocks), 0.01)]
    return recording.model_copy(update={"cells": [first, second]})


def screen(recording, width):
    console = Console(file=io.StringIO(), width=width)
    print_summary(recording, console)
    return console.file.getvalue().splitlines()


def test_a_name_does_not_end_a_cell_of_the_table(recording):
    before = as_markdown(recording).splitlines()
    recording.cells[0].name = "a|b"
    after = as_markdown(recording).splitlines()
    assert after[6] == before[6].replace("| mask |", "| a\\|b |")
    assert after[4:6] == before[4:6]


def test_stolen_time_is_told_beyond_the_limit_of_every_measurement(recording):
    for steal, told in ((UNSTABLE_STEAL, False), (UNSTABLE_STEAL + 0.001, True)):
        for block in recording.cells[0].blocks:
            block.steal = steal
        assert ("the hypervisor gave 2.1% of the CPU time to others" in as_markdown(recording)) is told


def test_one_interval_the_one_that_the_verdict_is_by(recording):
    cell = json.loads(FILE.read_text(encoding="utf-8"))["cells"][0]
    interval = f"{cell['estimate']['low']:.3f}–{cell['estimate']['high']:.3f}"
    lines = screen(recording, 80)
    assert lines[0].startswith("Latency: inconclusive. The ratio may be anything from 0.938 to 1.096")
    assert interval == "0.938–1.096"
    (row,) = (line.split() for line in lines if line.startswith(" mask "))
    assert row == ["mask", "inconclusive", "0.997", interval, "+11.5%", "10"]
    assert f"| 0.997 | {interval} | +11.5% |" in as_markdown(recording)
    text = " ".join(" ".join(lines).split())
    assert (
        "All of it above 1.010 (--margin) is a regression, all of it below 1.030 (--tolerance) a pass; each is wrong "
        "in at most 1% of runs."
    ) in text


def test_the_code_that_was_measured_is_named_as_far_as_it_is_known(recording):
    def told(**git):
        about = recording.environment | {"git": git}
        return " ".join(screen(recording.model_copy(update={"environment": about}), 300))

    assert f"revision {'a' * 12} with changes, kdbench " in told(revision="a" * 40, dirty=True)
    assert f"revision {'a' * 12}, kdbench " in told(revision="a" * 40, dirty=False)
    assert "revision unknown, kdbench " in told(revision=None)  # `dirty` may be missing


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits_the_screen_with_whole_names(recording, width):
    lines = screen(twice(recording, 1.2), width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert lines[0].startswith("Latency: regression. baseline/openvino-int8/mask: slower by more than 1%")
    start = next(i for i, line in enumerate(lines) if line.startswith(" baseline/"))
    parts = [line.split()[0] for line in lines[start : start + 3]] if width == 80 else [lines[start].split()[0]]
    assert "".join(parts) == "baseline/openvino-int8/mask"
    # Why the other one did not pass stands below.
    assert any(line.startswith("mask: the ratio may be anything from") for line in lines)


def test_plurals(recording):
    one = recording.cells[0].model_copy(update={"looks": []}, deep=True)
    one.blocks = one.blocks[:1]
    few = recording.model_copy(update={"cells": [one], "settings": {**recording.settings, "threads": 1}})
    said = " ".join(screen(few, 200))
    assert "1 block is too few for a verdict: give it more time with --budget" in said
    assert "1 thread, cpu, 2 cores" in said
    one.interrupted = True
    assert few.verdict() == ("inconclusive", "interrupted after 1 block")
    one.blocks = recording.cells[0].blocks[:3]
    assert few.verdict() == ("inconclusive", "interrupted after 3 blocks")
    one.interrupted = False
    assert few.verdict()[1].startswith("3 blocks are too few for a verdict")


def test_the_picture_shows_the_verdict_and_the_mean_with_its_interval(recording, tmp_path, monkeypatch):
    drawn = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **kw: (drawn.append(self), save(self, *a, **kw))
    )
    draw(recording, tmp_path / "gate.png")
    (figure,) = drawn
    blocks, means = figure.axes
    assert blocks.get_title(loc="left") == "mask: inconclusive, ratio 0.997"
    estimate = recording.judgements()[0].estimate
    candidate = means.containers[0]
    assert candidate.lines[0].get_ydata() == pytest.approx([100 * (estimate.ratio - 1)])
    low, high = candidate.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((100 * (estimate.low - 1), 100 * (estimate.high - 1)))
    (legend,) = figure.legends
    covered = legend.get_window_extent()
    assert not any(axes.get_tightbbox().overlaps(covered) for axes in figure.axes)


def settings(budget_s):
    return Settings(threads=1, device="cpu", budget_s=budget_s, seed=0, rule=Rule())


def test_a_budget_too_small_for_an_artifact_is_said_beforehand(monkeypatch):
    monkeypatch.setattr("kdbench.regress.blocks.usable_cores", lambda: 4)
    trials = [Trial([], start_s=1.0, call_ms=100.0), Trial([], start_s=2.0, call_ms=400.0)]
    # Start 2 s; warm-up 2 windows of 3 + 1 calls of 3 processes; 3 rounds there and back of slices of 1 + 5 calls.
    block = 2.0 + 2 * 3 * 4 * 0.4 + 3 * 2 * 3 * 6 * 0.4
    assert shortest_block_s(trials, cores=4) == pytest.approx(block)
    assert shortest_block_s(trials, cores=1) == pytest.approx(block + 2.0)  # 1 + 2 + 1 s, one after the other
    # The whole error of 1% needs 7 coins that fall alike: 2**-7 < 0.01 < 2**-6.
    assert warning_of_budget("mask", trials, settings(7 * block + 1), cells=1) is None
    assert warning_of_budget("mask", trials, settings(240), cells=1) == (
        "mask: a verdict needs 7 blocks, one takes 54.8 s or more with this artifact: --budget 240 will not do and "
        "ends inconclusive; try --budget 770"
    )
    # Four cells share the error: 2 blocks more.
    assert "needs 9 blocks" in warning_of_budget("mask", trials, settings(7 * block + 1), cells=4)


def test_short_calls_fill_their_slices():
    assert shortest_block_s([Trial([], 0.5, 0.1)] * 2, cores=4) == pytest.approx(0.5 + 24e-4 + 18 * (1e-4 + 0.05))
