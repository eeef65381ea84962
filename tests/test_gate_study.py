"""The gate's study: windows of recorded blocks are judged as a live run would, and other rules see the same calls."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.gate_scores import _replay, candidate_over_control, relabelled, replays, rivals, share, summarise
from kdbench.regress.record import ARMS, Block, Cell, Round
from kdbench.regress.rule import Rule


def block(rng, levels, rounds=3):
    """A block whose arms take ``levels`` milliseconds, give or take."""
    order = [*ARMS, *reversed(ARMS)]
    return Block(
        rounds=[
            Round(order=order, calls_ms=[(levels[a] * rng.normal(1, 0.002, 5)).tolist() for a in order])
            for _ in range(rounds)
        ],
        starts={}, warmup_calls=0, seconds=4.0, load_average=None, steal=None,
    )  # fmt: skip


def cell_of(blocks):
    return Cell(name="x", backend="onnx", baseline={}, candidate={}, inputs="", outputs="", outputs_same=True,
                blocks=blocks, looks=[(len(blocks), 0.01)])  # fmt: skip


def cell_with(candidate_ms, count=12):
    rng = np.random.default_rng(0)
    levels = {"baseline": 10.0, "candidate": candidate_ms, "control": 10.0}
    return cell_of([block(rng, levels) for _ in range(count)])


def row_of(cell, scenario="A/A", verdict="pass"):
    return {
        "machine": "quiet", "cell": "student-onnx", "scenario": scenario, "verdict": verdict, "seconds": 50.0,
        "rivals": rivals(cell), "ln_candidate": cell.ln_ratios("candidate"), "ln_control": cell.ln_ratios("control"),
        "ln_candidate_over_control": [candidate_over_control(b) for b in cell.blocks],
        "block_seconds": [b.seconds for b in cell.blocks],
    }  # fmt: skip


def test_relabelled_are_the_values_of_three_processes_named_otherwise():
    rng = np.random.default_rng(0)
    levels = dict(zip(ARMS, (10.0, 10.3, 9.8), strict=True))
    measured = block(rng, levels)
    found = relabelled(
        np.array([measured.ln_ratio("candidate")]),
        np.array([measured.ln_ratio("control")]),
        np.array([candidate_over_control(measured)]),
    )
    wanted = set()
    for names in itertools.permutations(ARMS):
        renamed = dict(zip(ARMS, names, strict=True))
        other = block_renamed(measured, renamed)
        wanted.add((round(other.ln_ratio("candidate"), 9), round(other.ln_ratio("control"), 9)))
    assert {tuple(np.round(pair, 9)) for pair in found[:, :, 0]} == wanted
    assert len(wanted) == 6


def block_renamed(measured, renamed):
    rounds = [Round(order=[renamed[a] for a in r.order], calls_ms=r.calls_ms) for r in measured.rounds]
    return measured.model_copy(update={"rounds": rounds})


def test_rivals_judge_the_recorded_calls():
    assert all(rivals(cell_with(12.0)).values())
    slightly = rivals(cell_with(10.7))
    assert slightly["pytest-benchmark mean:5%, one process"]
    assert not slightly["median of 7 processes, 10%"]
    same = rivals(cell_with(10.0))
    assert not any(failed for name, failed in same.items() if "Mann-Whitney" not in name)


def test_share_is_clopper_and_pearsons():
    # 0 of n: the upper bound is 1 - 0.025 ** (1 / n).
    assert share(0, 60)["ci95"] == [0.0, pytest.approx(1 - 0.025 ** (1 / 60))]
    assert share(60, 60)["ci95"] == [pytest.approx(0.025 ** (1 / 60)), 1.0]
    assert share(0, 0)["share"] is None


@pytest.mark.parametrize(("slower", "verdict"), [(0.0, "pass"), (0.1, "regression")])
def test_a_window_of_calm_blocks_is_decided_as_it_should(slower, verdict):
    rng = np.random.default_rng(1)
    candidate, control = rng.normal(0, 0.01, (2, 48))
    spent = np.arange(1, 49) / 48
    assert _replay(candidate + np.log1p(slower), control, spent, Rule()) == verdict


def test_a_window_of_too_few_blocks_is_inconclusive():
    assert _replay(np.full(5, 0.5), np.zeros(5), np.arange(1, 6) / 5, Rule()) == "inconclusive"


def test_replays_and_summary_of_recorded_runs(monkeypatch):
    monkeypatch.setattr("benchmarks.gate_scores.WINDOWS", 50)
    rows = [row_of(cell_with(10.0, 40)), row_of(cell_with(11.0, 12), "+10%", "regression")]
    found = {row["slower"]: row["verdicts"] for row in replays(rows, budget_s=100)}
    assert found[0.0]["regression"]["times"] == 0
    assert found[0.10]["regression"]["times"] == 50
    assert replays(rows, budget_s=1000) == []  # 160 s of blocks fill no window
    table = {(row["cell"], row["scenario"]): row for row in summarise(rows)}
    assert table["student-onnx", "+10%"]["measured_ratio"] == pytest.approx(1.1, abs=0.005)
    assert table["all", "+10%"]["verdicts"]["regression"]["times"] == 1
    assert table["all", "A/A"]["verdicts"]["pass"]["of"] == 1
