"""Write the README's measured tables from the committed results files: no number is typed by hand.

python -m benchmarks.readme_table            # rewrite README.md
python -m benchmarks.readme_table --check    # exit 1 when README.md differs from the results
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import gpu_tables
from kdbench.comparison.numbers import difference, fraction, plus_minus
from kdbench.comparison.results import Comparison
from kdbench.comparison.tables import as_markdown
from kdbench.runs.files import read_json, write_text

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = Path("results/camvid-180x240.json")
SPEED = Path("results/backend-speedup.json")
TRAINING = Path("results/training-speed.json")
STUDENT = Path("results/student-latency.json")
ACCURACY = Path("results/student-accuracy.json")
GATE = Path("results/gate-study.json")
GPU = Path("results/gpu")
BEGIN, END = "<!-- table: begin, from {} -->", "<!-- table: end -->"


def speed_table(results: Path) -> str:
    """What ``benchmarks.backend_speedup`` measured."""
    report = read_json(REPOSITORY / results, "python -m benchmarks.backend_speedup")
    environment, usual = report["environment"], report["block_ms"]["torch eager, usual pipeline"]
    lines = [
        "| image → mask | times faster | 95% interval | mIoU |",
        "| --- | ---: | ---: | ---: |",
        "| torch eager, usual pipeline | 1 | – | – |",
    ]
    for row in report["rows"]:
        name = f"{row['backend']} {row['precision']}"
        low, high = row["ci95"]
        lines.append(f"| {name} | {row['speedup']:.2f} | {low:.2f}–{high:.2f} | {fraction(row['miou'])} |")
    added = report["kdbench_over_bare_session_run"]
    size, trained = ("x".join(map(str, report[key])) for key in ("size", "trained_size"))
    hardware = environment["hardware"]
    lines += [
        "",
        f"{report['method']} student at {size} (trained at {trained}), batch 1, {report['threads']} threads, side by "
        f"side in one run of {len(usual)} blocks on {hardware['cores']} cores ({hardware['cpu']}). The usual pipeline "
        "is torchvision's normalisation, the model, and argmax. kdbench's own call takes "
        f"{added['ratio']:.3f} times a bare `session.run` ({added['ci95'][0]:.3f}–{added['ci95'][1]:.3f}). Revision "
        f"`{environment['git']['revision'][:12]}`, `{environment['command']}`; every block is in "
        f"`{results.as_posix()}`."
        + (
            f" Trained at {trained}, the student is out of its scale at {size}: compare the low mIoU between rows."
            if size != trained
            else ""
        ),
        "",
    ]
    return "\n".join(lines)


def student_table(results: Path) -> str:
    """What ``benchmarks.student_latency`` measured."""
    report = read_json(REPOSITORY / results, "python -m benchmarks.student_latency")
    environment, (low, high) = report["environment"], report["ci95"]
    student, yardstick = report["rows"]
    hardware = environment["hardware"]
    lines = [
        "| image → mask | parameters | GFLOP | latency | 95% interval |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| torchvision's `{yardstick['model']}` | {yardstick['params'] / 1e6:.2f}M | "
        f"{yardstick['gflops']:.2f} | 1 | – |",
        f"| the student | {student['params'] / 1e6:.2f}M | {student['gflops']:.2f} | {report['ratio']:.3f} | "
        f"{low:.3f}–{high:.3f} |",
        "",
        "512 x 512, batch 1, ONNX Runtime fp32, 2 threads, side by side in one run of "
        f"{len(report['block_ms']['student'])} blocks on {hardware['cores']} cores ({hardware['cpu']}). Revision "
        f"`{environment['git']['revision'][:12]}`, `{environment['command']}`; every block is in "
        f"`{results.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


def accuracy_table(results: Path) -> str:
    """What ``benchmarks.student_accuracy`` measured."""
    report = read_json(REPOSITORY / results, "python -m benchmarks.student_accuracy score")
    recipe, (yardstick, *students) = report["recipe"], report["rows"]
    revisions = ", ".join(f"`{revision[:12]}`" for revision in report["yardstick_revisions"])
    lines = [
        f"| mIoU | seeds | mean ± standard error | over `{yardstick['model']}` |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in (yardstick, *students):
        name, over = f"torchvision's `{row['model']}`", "–"
        if row is not yardstick:
            name = f"the student, `{row['model']}`"
            over = f"{difference(row['difference'])}{plus_minus(row['difference_standard_error'])}"
        miou = f"{fraction(row['miou'])}{plus_minus(row['standard_error'])}"
        lines.append(f"| {name} | {len(row['seeds'])} | {miou} | {over} |")
    lines += [
        "",
        f"CamVid val at {'x'.join(map(str, recipe['size']))}, from scratch, the same recipe of {recipe['epochs']} "
        f"epochs; differences are paired, over the seeds that both have. Students as in `{report['comparison']}`; the "
        f"yardstick by `python -m benchmarks.student_accuracy`, trained at {revisions}; every seed is in "
        f"`{results.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


def training_table(results: Path) -> str:
    """What ``benchmarks.training_speed`` measured."""
    report = read_json(REPOSITORY / results, "python -m benchmarks.training_speed")
    environment = report["environment"]
    lines = ["| training | ratio | 95% interval |", "| --- | ---: | ---: |"]
    for row in report["rows"]:
        low, high = row["ci95"]
        lines.append(f"| {row['name']} | {row['ratio']:.2f} | {low:.2f}–{high:.2f} |")
    blocks = len(report["block_ms"]["throughput"]["floor"])
    hardware = environment["hardware"]
    lines += [
        "",
        f"{report['dataset']} at {'x'.join(map(str, report['size']))}, batch {report['batch_size']}, "
        f"{report['threads']} threads, epochs side by side in one run of {blocks} blocks on {hardware['cores']} cores "
        f"({hardware['cpu']}). "
        f"The teacher's passes are in {report['teacher_precision']}. Revision "
        f"`{environment['git']['revision'][:12]}`, `{environment['command']}`; every block is in "
        f"`{results.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


def gate_table(results: Path) -> str:
    """What ``benchmarks.gate_study`` measured."""
    report = read_json(REPOSITORY / results, "python -m benchmarks.gate_study score")
    live = {(r["machine"], r["scenario"]): r for r in report["live"] if r["cell"] == "all"}
    replayed: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for entry in report["replayed"]:
        replayed.setdefault((entry["machine"], entry["slower"]), []).append(entry["verdicts"])
    shown = [(m, s) for m in ("quiet", "loaded") for s in ("A/A", "+5%", "+10%") if (m, s) in live]
    slower = {"A/A": 0.0, "+5%": 0.05, "+10%": 0.10}
    columns = [f"{'identical' if s == 'A/A' else s}, {m}" for m, s in shown]
    lines = [f"| fails | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]

    def add(name: str, found: list[tuple[int, int]]) -> None:
        lines.append(f"| {name} | {' | '.join(f'{times} of {of}' if of else '–' for times, of in found)} |")

    def times_of(shares: list[dict[str, Any]]) -> tuple[int, int]:
        return sum(s["times"] for s in shares), sum(s["of"] for s in shares)

    for verdict, what in (("regression", ""), ("inconclusive", ", inconclusive")):
        add(f"`kdbench regress`{what}", [times_of([live[key]["verdicts"][verdict]]) for key in shown])
        windows = [[v[verdict] for v in replayed.get((m, slower[s]), [])] for m, s in shown]
        add(f"replayed{what}", [times_of(shares) for shares in windows])
    for name in live[shown[0]]["rivals"]:
        add(name, [times_of([live[key]["rivals"][name]]) for key in shown])
    environment = report["environment"]
    hardware = environment["hardware"]
    seconds = [row["seconds_longest"] for row in live.values()]
    cells = ", ".join(f"{name} ({threads} threads)" for name, threads in report["threads"].items())
    lines += [
        "",
        f"{sum(row['runs'] for row in live.values())} live verdicts over {cells} at 512 x 512 on {hardware['cores']} "
        f"cores ({hardware['cpu']}), the longest {max(seconds):.0f} s; slower twins have extra layers. Loaded: a "
        "neighbour that computes in bursts. A replayed verdict is over a window of recorded blocks of identical "
        "files, freshly labelled, with the slowdown added. The other rules judge the calls that the live runs "
        "recorded: of one process per side, as a CI job has, or of all. Intervals, every model and engine apart, and "
        f"every run are in `{results.as_posix()}`; revision `{environment['git']['revision'][:12]}`, "
        "`python -m benchmarks.gate_study`.",
        "",
    ]
    return "\n".join(lines)


def comparison_table(results: Path) -> str:
    """What ``kdbench compare`` measured."""
    comparison = Comparison.read(REPOSITORY / results)
    environment = comparison.environment
    hardware, versions = environment["hardware"], environment["versions"]
    training = next(iter(comparison.training.values()))
    engines = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "tensorrt-rtx") if name in versions
    )
    gpu = f", {hardware['gpu'][0]}" if hardware["gpu"] else ", no GPU"
    return (
        f"{as_markdown(comparison)}\n"
        f"Measured on {hardware['cores']} cores ({hardware['cpu']}), {hardware['memory_gib']} GiB{gpu}; {engines}. "
        f"{training['train_images']} training images, {training['epochs']} epochs, seeds "
        f"{', '.join(map(str, training['seeds']))}. Trained at revision `{training['revision'][:12]}`, compared at "
        f"`{environment['git']['revision'][:12]}` by `{environment['command']}`; "
        f"every figure is in `{results.as_posix()}`.\n"
    )


RENDER = {
    RESULTS: comparison_table, STUDENT: student_table, ACCURACY: accuracy_table, SPEED: speed_table,
    TRAINING: training_table, GATE: gate_table,
    GPU / "latency.json": gpu_tables.latency_table, GPU / "latency-compiled.json": gpu_tables.latency_table,
    GPU / "training.json": gpu_tables.training_table, GPU / "training-overlapped.json": gpu_tables.training_table,
}  # fmt: skip
"""Results file → what writes its table."""


def with_table(readme: str, results: Path) -> str:
    """``readme`` with the text between a table's two markers replaced."""
    begin = BEGIN.format(results.as_posix())
    if readme.count(begin) != 1 or END not in readme.split(begin)[1]:
        raise SystemExit(f"README.md: expected the markers '{begin}' and '{END}' once each")
    head, rest = readme.split(begin)
    return f"{head}{begin}\n{RENDER[results](results)}{END}{rest.split(END, 1)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when README.md is not up to date")
    check = parser.parse_args().check
    path = REPOSITORY / "README.md"
    now = path.read_text(encoding="utf-8")
    wanted = now
    for results in RENDER:
        before, wanted = wanted, with_table(wanted, results)
        if check and before != wanted:
            sys.exit(f"README.md's table differs from {results.as_posix()}: run `make readme`")
    if not check:
        write_text(path, wanted)
    print(f"README.md's tables {'agree with' if check else 'were written from'} {', '.join(map(str, RENDER))}")


if __name__ == "__main__":
    main()
