"""The gate study's scores: verdicts of the live runs, of other rules on the same calls, and of replayed windows."""

from __future__ import annotations

import gzip
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, mannwhitneyu

from benchmarks.gate_models import CELLS, RECORDINGS, SLOWDOWNS
from benchmarks.gate_runs import SCENARIOS
from kdbench.machine.environment import environment
from kdbench.progress import progress_bar
from kdbench.regress.record import Block, Cell, Recording
from kdbench.regress.rule import EXIT_CODES, Rule, can_decide, judge
from kdbench.regress.signed_rank import SignedRank
from kdbench.runs.files import read_json, write_text

WINDOWS = 2000
"""Replayed verdicts of each cell, machine and slowdown."""
MACHINES = ("quiet", "loaded")
ALL = "all"


def _processes(cell: Cell, arm: Any) -> list[NDArray[np.float64]]:
    """The calls of an arm, process by process."""
    return [
        np.concatenate([c for r in b.rounds for a, c in zip(r.order, r.calls_ms, strict=True) if a == arm])
        for b in cell.blocks
    ]


def rivals(cell: Cell) -> dict[str, bool]:
    """What other rules say of the same samples: True = fails the candidate.

    "One process" is what a CI job has: one run of each side, here the first block's. "All" gives a rule every call
    that the gate saw, and so the same pairing in time, which it would not have by itself.
    """
    ours, theirs = _processes(cell, "baseline"), _processes(cell, "candidate")
    found = {}
    for scope, a, b in (("one process", ours[0], theirs[0]), ("all", np.concatenate(ours), np.concatenate(theirs))):
        found[f"pytest-benchmark mean:5%, {scope}"] = bool(b.mean() > 1.05 * a.mean())
        found[f"pytest-benchmark min:5%, {scope}"] = bool(b.min() > 1.05 * a.min())
        found[f"Mann-Whitney at .05, {scope}"] = bool(mannwhitneyu(b, a, alternative="greater").pvalue < 0.05)
    medians = [float(np.median([np.median(p) for p in side[:7]])) for side in (ours, theirs)]
    found["median of 7 processes, 10%"] = medians[1] > 1.1 * medians[0]
    return found


def share(times: int, of: int) -> dict[str, Any]:
    """A proportion with its exact 95% interval (Clopper and Pearson)."""
    if of == 0:
        return {"times": 0, "of": 0, "share": None, "ci95": None}
    interval = binomtest(times, of).proportion_ci(method="exact")
    return {"times": times, "of": of, "share": times / of, "ci95": [interval.low, interval.high]}


def read_runs() -> list[dict[str, Any]]:
    """One row per live run, with what follows from its calls."""
    rows = []
    files = sorted(RECORDINGS.glob("*/[0-9]*.json.gz"))
    with progress_bar("score", len(files)) as bar:
        for file in files:
            document = json.loads(gzip.decompress(file.read_bytes()))
            recording = Recording.model_validate(document["recording"])
            cell = recording.cells[0]
            verdict, reason = recording.verdict()
            rows.append(
                {
                    "number": int(file.name[:4]), "machine": file.parent.name, "cell": document["cell"],
                    "scenario": document["scenario"], "verdict": verdict, "reason": reason,
                    "seconds": round(document["wall_seconds"], 1), "blocks": len(cell.blocks),
                    "looks": cell.looks, "rivals": rivals(cell),
                    "ln_candidate": [round(v, 5) for v in cell.ln_ratios("candidate").tolist()],
                    "ln_control": [round(v, 5) for v in cell.ln_ratios("control").tolist()],
                    "ln_candidate_over_control": [round(candidate_over_control(b), 5) for b in cell.blocks],
                    "block_seconds": [block.seconds for block in cell.blocks],
                }
            )  # fmt: skip
            bar.advance()
    return rows


def candidate_over_control(block: Block) -> float:
    return float(np.median([r.ln_ratio("candidate") - r.ln_ratio("control") for r in block.rounds]))


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per machine, cell and scenario: the gate's verdicts, how long they took, the true effect, and the rivals'."""
    table = []
    for machine, cell, scenario in itertools.product(MACHINES, (ALL, *CELLS), SCENARIOS):
        chosen = [r for r in rows if (r["machine"], r["scenario"]) == (machine, scenario) and cell in (ALL, r["cell"])]
        if not chosen:
            continue
        seconds = np.array([r["seconds"] for r in chosen])
        # Over a study's worth of blocks: what the layers really cost.
        ratio = math.exp(SignedRank(np.concatenate([r["ln_candidate"] for r in chosen])).centre)
        table.append(
            {
                "machine": machine, "cell": cell, "scenario": scenario, "runs": len(chosen),
                "verdicts": {v: share(sum(r["verdict"] == v for r in chosen), len(chosen)) for v in EXIT_CODES},
                "measured_ratio": None if cell == ALL else ratio,
                "seconds_median": float(np.median(seconds)), "seconds_longest": float(seconds.max()),
                "rivals": {
                    name: share(sum(r["rivals"][name] for r in chosen), len(chosen)) for name in chosen[0]["rivals"]
                },
            }
        )  # fmt: skip
    return table


def replays(rows: list[dict[str, Any]], budget_s: float) -> list[dict[str, Any]]:
    """Verdicts over windows of the recorded A/A blocks: as they are, and with a slowdown added to every block.

    A window is a stretch of consecutive blocks of one cell that fills the time budget; the run's files follow each
    other in time. Which of a block's three identical processes is the baseline, which the candidate and which the
    control is drawn again for every block, so windows that overlap differ.
    """
    table = []
    for machine, cell in itertools.product(MACHINES, CELLS):
        chosen = [r for r in rows if (r["machine"], r["cell"], r["scenario"]) == (machine, cell, "A/A")]
        if not chosen:
            continue
        names = ("ln_candidate", "ln_control", "ln_candidate_over_control", "block_seconds")
        candidate, control, between, seconds = (np.concatenate([r[name] for r in chosen]) for name in names)
        if seconds.sum() < budget_s:
            continue
        labelled = relabelled(candidate, control, between)
        blocks = min(len(seconds), int(budget_s / seconds.mean()))
        for slower in (0.0, *SLOWDOWNS.values()):
            rng, verdicts = np.random.default_rng(0), []
            for _ in range(WINDOWS):
                window = rng.integers(0, len(seconds) - blocks + 1) + np.arange(blocks)
                values = labelled[rng.integers(0, len(labelled), blocks), :, window]
                spent = np.cumsum(seconds[window]) / budget_s
                verdicts.append(_replay(values[:, 0] + math.log1p(slower), values[:, 1], spent, Rule()))
            table.append(
                {
                    "machine": machine, "cell": cell, "slower": slower, "blocks_recorded": len(seconds),
                    "blocks_per_window": blocks,
                    "verdicts": {verdict: share(verdicts.count(verdict), WINDOWS) for verdict in EXIT_CODES},
                }
            )  # fmt: skip
    return table


def relabelled(
    candidate: NDArray[np.float64], control: NDArray[np.float64], between: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The values that blocks would have had with their three processes named otherwise.

    Args:
        candidate, control: ln ratios over the baseline of n blocks.
        between: ln(candidate / control) of the same.

    Returns:
        6 x 2 x n: for each way to name three processes, ln ratios of candidate and control over the baseline.
    """
    return np.array(
        [
            (candidate, control), (control, candidate),  # the baseline stays
            (-candidate, -between), (-between, -candidate),  # the candidate becomes the baseline
            (-control, between), (between, -control),  # the control becomes the baseline
        ]
    )  # fmt: skip


def _replay(
    candidate: NDArray[np.float64], control: NDArray[np.float64], spent: NDArray[np.float64], rule: Rule
) -> str:
    """The verdict of one window, with the looks of a live run."""
    pending = list(rule.looks)
    for n, share_spent in enumerate(spent, start=1):
        last = n == len(spent)
        due = [look for look in pending if last or share_spent >= look[0]]
        alpha = sum(alpha for _, alpha in due)
        if not due or not (last or can_decide(n, alpha)):
            continue
        pending = pending[len(due) :]
        found = judge(candidate[:n], control[:n], alpha, rule)
        if found.verdict != "inconclusive":
            return found.verdict
    return "inconclusive"


def score(budget_s: float, json_file: Path | None) -> None:
    rows = read_runs()
    if not rows:
        raise SystemExit(f"no runs under {RECORDINGS}: python -m benchmarks.gate_study run --minutes 60")
    report = {
        "schema_version": 1, "benchmark": "gate_study", "budget_s": budget_s,
        "threads": {name: threads for name, (_, _, threads) in CELLS.items()},
        "calibration": {name: read_json(RECORDINGS / f"{name}.json", "prepare") for name in CELLS},
        "live": summarise(rows), "replayed": replays(rows, budget_s),
        # What else a run holds follows from its recording.
        "runs": [{k: r[k] for k in ("machine", "number", "cell", "scenario", "verdict", "seconds")} for r in rows],
        "environment": environment(),
    }  # fmt: skip
    lines = as_text(report)
    print(lines)
    if json_file:
        write_text(json_file, json.dumps(report, allow_nan=False) + "\n")
    print(json.dumps({key: report[key] for key in ("benchmark", "live", "replayed")}))


def as_text(report: dict[str, Any]) -> str:
    """One line per machine, scenario and rule: how often it fails, passes, and does not know."""

    def percent(found: dict[str, Any]) -> str:
        low, high = found["ci95"]
        return f"{found['times']}/{found['of']} ({100 * low:.1f}-{100 * high:.1f}%)"

    lines = [f"{'machine':<8}{'cell':<18}{'candidate':<11}{'rule':<38}{'fails':<24}{'passes':<24}{'inconclusive':<24}"]
    for row in report["live"]:
        verdicts = row["verdicts"]
        what = f"{row['machine']:<8}{row['cell']:<18}{row['scenario']:<11}"
        cells = (percent(verdicts[v]) for v in ("regression", "pass", "inconclusive"))
        lines.append(f"{what}{'kdbench regress':<38}" + "".join(f"{cell:<24}" for cell in cells))
        lines += [f"{what}{name:<38}{percent(found)}" for name, found in row["rivals"].items()]
        measured = "" if row["measured_ratio"] is None else f"; measured ratio {row['measured_ratio']:.3f}"
        lines.append(
            f"{what}seconds: median {row['seconds_median']:.0f}, longest {row['seconds_longest']:.0f}{measured}"
        )
    for row in report["replayed"]:
        cells = (percent(row["verdicts"][v]) for v in ("regression", "pass", "inconclusive"))
        slower = f"{100 * row['slower']:+.0f}%"
        what = f"{row['machine']:<8}{row['cell']:<18}{slower:<11}"
        lines.append(f"{what}{'kdbench regress, replayed':<38}" + "".join(f"{cell:<24}" for cell in cells))
    return "\n".join(lines)
