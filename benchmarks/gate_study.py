"""How often the latency gate is right, live and on its own recordings, beside the rules that people use instead.

    python -m benchmarks.gate_study prepare                 # exports two models, builds slower twins, calibrates them
    python -m benchmarks.gate_study run --minutes 60        # live runs, as many as fit; goes on where it stopped
    python -m benchmarks.gate_study run --minutes 60 --loaded
    python -m benchmarks.gate_study score --json results/gate-study.json

A run is one verdict of ``kdbench regress``: identical files (A/A), or a candidate with extra real layers that make it
3%, 5% or 10% slower, or a baseline with such layers (the candidate is 5% faster). Which one comes next is shuffled
with a fixed seed; every recording is kept in results/gate-study/. ``--loaded`` has another process work in bursts on
the same machine. ``score`` judges the same samples by other rules too, and replays windows of recorded A/A blocks,
freshly labelled, thousands of times.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, mannwhitneyu

from benchmarks.extra_layers import add_layers
from exporters.export_job import ExportJob
from exporters.proven_export import export_as
from kdbench.data.shapes import Shapes
from kdbench.formats import FORMATS
from kdbench.machine.environment import environment
from kdbench.models.registry import build_model
from kdbench.progress import progress_bar
from kdbench.regress.artifact import Filter, find_artifacts, pair
from kdbench.regress.blocks import Settings
from kdbench.regress.gate import run_gate
from kdbench.regress.record import Block, Cell, Recording
from kdbench.regress.rule import EXIT_CODES, Rule, can_decide, judge
from kdbench.regress.signed_rank import SignedRank
from kdbench.runs.checkpoints import save_checkpoint
from kdbench.runs.files import read_json, sha256, write_json, write_text
from kdbench.runs.tree import RunTree, sidecar_path

STUDY = Path("runs/gate-study")
"""The models, which ``prepare`` makes again."""
RECORDINGS = Path("results/gate-study")
"""Every live run, call by call, and what the slower models' widths follow from."""
SIZE, CLASSES = (512, 512), 11
CELLS = {
    "student-onnx": ("student", "onnx", 2),
    "student-openvino": ("student", "openvino", 2),
    "lraspp-onnx": ("lraspp_mobilenet_v3_large", "onnx", 1),
}
"""Cell → model, backend, threads."""
SLOWDOWNS = {"+3%": 0.03, "+5%": 0.05, "+10%": 0.10}
SCENARIOS = {"A/A": 8, "+3%": 1, "+5%": 4, "+10%": 2, "-5%": 1}
"""Scenario → runs in each shuffled round of a cell."""
PROBES, STEP, PROBE_SECONDS = (64, 256), 16, 120.0
"""Widths of the extra branch that are measured to find those of the slowdowns; engines like multiples of the step."""
WINDOWS = 2000
"""Replayed verdicts of each cell, machine and slowdown."""
MACHINES = ("quiet", "loaded")
ALL = "all"


# ---------------------------------------------------------------------------------------------------------- prepare


def prepare() -> None:
    """Export every model, and twins that are slower by what was asked for."""
    for name, (arch, backend, threads) in CELLS.items():
        done = RECORDINGS / f"{name}.json"
        build(name, arch, backend, "base", 0)
        if done.exists():
            for scenario, channels in read_json(done, "prepare")["channels"].items():
                build(name, arch, backend, scenario, channels)
            continue
        ratios = []
        for channels in PROBES:
            build(name, arch, backend, "probe", channels)
            # No verdict can stop it: the ratio is wanted as precisely as the time allows.
            rule = Rule(margin=0.0, tolerance=1e-4, looks=((1.0, 1e-9),))
            recording = measure(name, "base", "probe", threads, budget_s=PROBE_SECONDS, rule=rule)
            ratios.append(math.exp(SignedRank(recording.cells[0].ln_ratios("candidate")).centre))
        per_channel = (ratios[1] - ratios[0]) / (PROBES[1] - PROBES[0])
        widths = {}
        for scenario, slower in SLOWDOWNS.items():
            exact = PROBES[0] + (1 + slower - ratios[0]) / per_channel
            widths[scenario] = max(STEP, STEP * round(exact / STEP))
            build(name, arch, backend, scenario, widths[scenario])
        write_json(done, {"schema_version": 1, "probes": list(PROBES), "ratios": ratios, "channels": widths})
        print(f"{name}: {PROBES} channels take {ratios} x; widths {widths}", flush=True)


def build(name: str, arch: str, backend: str, variant: str, channels: int) -> None:
    """One variant's export, in a tree of its own: the plain model (0 channels), or with an extra branch."""
    tree = RunTree(STUDY / name, variant)
    torch.manual_seed(0)
    about = {"arch": arch, "classes": [str(i) for i in range(CLASSES)], "palette": [], "size": list(SIZE)}
    save_checkpoint(tree.checkpoint("baseline"), build_model(arch, CLASSES).state_dict(), about)
    with ExportJob(tree, "baseline", "mask", samples=[Shapes("val")[0]], allow_drift=True) as job:
        path = export_as(job, backend, "fp32")
        if channels:
            with tempfile.TemporaryDirectory() as folder:
                slower = Path(folder) / "mask.onnx"
                add_layers(job.graph(elementwise=backend == "openvino"), slower, channels)
                if backend == "onnx":
                    shutil.copy(slower, path)
                else:
                    import openvino

                    openvino.save_model(openvino.Core().read_model(slower), path, compress_to_fp16=False)
            sidecar = read_json(sidecar_path(path), "kdbench export")
            sidecar["sha256"] = sha256(path)
            for key in FORMATS[backend].companions:
                sidecar[key]["sha256"] = sha256(FORMATS[backend].companion(path, key))
            write_json(sidecar_path(path), sidecar)


def measure(
    name: str, baseline: str, candidate: str, threads: int, *, budget_s: float, rule: Rule, seed: int = 0
) -> Recording:
    sides = [find_artifacts(STUDY / name / side, Filter(backends=(CELLS[name][1],))) for side in (baseline, candidate)]
    settings = Settings(threads=threads, device="cpu", budget_s=budget_s, seed=seed, rule=rule)
    return run_gate(
        pair(sides[0], sides[1], (baseline, candidate)), settings, images=[], allow_different_outputs=False,
        keep=lambda recording: None,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- run


def schedule() -> Iterator[tuple[int, str, str]]:
    """(number, cell, scenario) without end: every round holds ``SCENARIOS`` of each cell, shuffled."""
    rng = np.random.default_rng(0)
    number = 0
    while True:
        runs = [(cell, scenario) for cell in CELLS for scenario, times in SCENARIOS.items() for _ in range(times)]
        for index in rng.permutation(len(runs)):
            yield number, *runs[index]
            number += 1


def run(minutes: float, loaded: bool, only: str | None, budget_s: float) -> None:
    """Do the next runs of the schedule, or of one scenario in it, until ``minutes`` are over; the last is finished."""
    until = time.monotonic() + 60 * minutes
    folder = RECORDINGS / ("loaded" if loaded else "quiet")
    for number, cell, scenario in schedule():
        file = folder / f"{number:04d}.json.gz"
        if file.exists() or only not in (None, scenario):
            continue
        if time.monotonic() > until:
            return
        sides = ("base", "base") if scenario == "A/A" else ("+5%", "base") if scenario == "-5%" else ("base", scenario)
        with background_load() if loaded else no_load():
            started = time.monotonic()
            recording = measure(cell, *sides, CELLS[cell][2], budget_s=budget_s, rule=Rule(), seed=number)
            seconds = time.monotonic() - started
        verdict, reason = recording.verdict()
        document = {
            "cell": cell,
            "scenario": scenario,
            "wall_seconds": seconds,
            "recording": recording.model_dump(mode="json"),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".part")
        temporary.write_bytes(gzip.compress(json.dumps(document).encode()))
        temporary.replace(file)
        print(f"{number} {cell} {scenario}: {verdict} after {seconds:.0f} s ({reason})", flush=True)


@contextmanager
def no_load() -> Iterator[None]:
    yield


@contextmanager
def background_load() -> Iterator[None]:
    """A neighbour that computes for 2 seconds on average, then rests for 4 on average."""
    process = multiprocessing.get_context("spawn").Process(target=_work_in_bursts, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _work_in_bursts() -> None:
    rng = np.random.default_rng()
    torch.set_num_threads(1)
    matrix = torch.rand(1024, 1024)
    while True:
        until = time.monotonic() + rng.exponential(2)
        while time.monotonic() < until:
            matrix @ matrix
        time.sleep(rng.exponential(4))


# ------------------------------------------------------------------------------------------------------------ score


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
        "environment": {**environment(), "command": "python -m benchmarks.gate_study score"},
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "run", "score"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--loaded", action="store_true", help="with a neighbour that works in bursts")
    parser.add_argument("--only", choices=SCENARIOS, help="run this scenario alone: rare errors take many runs to see")
    parser.add_argument("--budget", type=float, default=240, help="seconds for a verdict")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    arguments = parser.parse_args()
    if arguments.step == "prepare":
        prepare()
    elif arguments.step == "run":
        run(arguments.minutes, arguments.loaded, arguments.only, arguments.budget)
    else:
        score(arguments.budget, arguments.json)


if __name__ == "__main__":
    main()
