"""The tables of docs/measured.md, each from a results file that a script of this folder wrote.

Every function takes the repository's root and the path of its file below it, and returns Markdown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbench.comparison import markdown
from kdbench.comparison.numbers import difference, fraction
from kdbench.comparison.results import Comparison
from kdbench.comparison.tables import as_markdown
from kdbench.methods.base import title_of
from kdbench.runs.files import read_json


def comparison_table(root: Path, results: Path) -> str:
    """What ``kdbench compare`` measured."""
    comparison = Comparison.read(root / results)
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


def speed_table(root: Path, results: Path) -> str:
    """What ``benchmarks.backend_speedup`` measured."""
    report = read_json(root / results, "python -m benchmarks.backend_speedup")
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


def training_table(root: Path, results: Path) -> str:
    """What ``benchmarks.training_speed`` measured."""
    report = read_json(root / results, "python -m benchmarks.training_speed")
    environment = report["environment"]
    lines = ["| training | ratio | 95% interval |", "| --- | ---: | ---: |"]
    for row in report["rows"]:
        low, high = row["ci95"]
        name = row["name"].replace("arms", "students")  # the code's word for students that are trained side by side
        lines.append(f"| {name} | {row['ratio']:.2f} | {low:.2f}–{high:.2f} |")
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


def gate_table(root: Path, results: Path) -> str:
    """What ``benchmarks.gate_study`` measured."""
    report = read_json(root / results, "python -m benchmarks.gate_study score")
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


def networks_table(root: Path, results: Path) -> str:
    """What ``benchmarks.foreign_networks`` found."""
    report = read_json(root / results, "python -m benchmarks.foreign_networks")
    lines = [
        "| network | feature maps read at | fp32 | fp16 | int8, pixels | int8, mIoU | exports |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for found in report["networks"].values():
        rows = found["exports"]["rows"]
        made = made_exports(rows)
        cells = [f"{100 * min(row['pixel_agreement'] for row in made[key]):.3f}%" for key in ("fp32", "fp16", "int8")]
        change = min(row["miou_candidate"] - row["miou_reference"] for row in made["int8"])
        taps = ", ".join(f"`{module}`" for module in found["student"]["taps"].values()) or "its pyramid"
        count = f"{sum(map(len, made.values()))} of {supported(rows)}"
        lines.append(f"| `{found['network']}` | {taps} | {' | '.join(cells)} | {difference(change)} | {count} |")
    environment = report["environment"]
    hardware = environment["hardware"]
    lines += [
        "",
        f"CamVid at {report['size']}, an epoch or a few each as student and as teacher, then exports to "
        f"{', '.join(report['formats'])}. Columns: the least share of pixels that have PyTorch's class among the "
        "exports of a precision, and int8's lowest change of mIoU. Networks that were trained so little say nothing "
        f"about accuracy. {hardware['cores']} cores ({hardware['cpu']}), `python -m benchmarks.foreign_networks`; "
        f"every row is in `{results.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


def made_exports(rows: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Precision → rows of the exports that were made, of "format precision" → row."""
    made: dict[str, list[dict[str, Any]]] = {}
    for name, row in rows.items():
        if row["status"] == "made":
            made.setdefault(name.split()[1], []).append(row)
    return made


def supported(rows: dict[str, dict[str, Any]]) -> int:
    """How many of the asked exports a format has such a precision for."""
    return sum(row["status"] != "unsupported" for row in rows.values())


def import_table(root: Path, results: Path) -> str:
    """What ``benchmarks.import_overhead`` measured."""
    report = read_json(root / results, "python -m benchmarks.import_overhead")
    environment = report["environment"]
    lines = ["| time of an imported file, over that of | ratio | 95% interval |", "| --- | ---: | ---: |"]
    names = {"raw": "the file, behind NumPy's preprocessing", "raw+argmax": "and NumPy's argmax after it"}
    for key, row in report["ratio_to"].items():
        low, high = row["ci95"]
        lines.append(f"| {names[key]} | {row['ratio']:.3f} | {low:.3f}–{high:.3f} |")
    hardware = environment["hardware"]
    lines += [
        "",
        f"From uint8 image to mask at {'x'.join(map(str, report['size']))}, batch 1, {report['threads']} threads, side "
        f"by side in one run of {len(report['block_ms']['raw'])} blocks on {hardware['cores']} cores "
        f"({hardware['cpu']}). Revision `{environment['git']['revision'][:12]}`, `{environment['command']}`; every "
        f"block is in `{results.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


def files_table(root: Path, results: Path) -> str:
    """What ``benchmarks.import_files`` found."""
    report = read_json(root / results, "python -m benchmarks.import_files")
    lines = [
        "| file | fp32 has the file's class | PyTorch's class | classes | int8, lowest change of mIoU | exports |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        made = [export for export in row["exports"] if export["status"] == "made"]
        asked = [export for export in row["exports"] if export["status"] != "unsupported"]
        change = min(-export["miou_lost"] for export in made if "miou_lost" in export)
        shares = " | ".join(f"{100 * row[f'agreement_with_{what}']:.4f}%" for what in ("file", "pytorch"))
        lines.append(
            f"| `{row['name']}` | {shares} | {len(row['classes_seen'])} | {difference(change)} | "
            f"{len(made)} of {len(asked)} |"
        )
    environment = report["environment"]
    hardware = environment["hardware"]
    lines += [
        "",
        f"Files as users of torchvision, segmentation_models_pytorch and transformers export them, after "
        f"{report['steps']} steps of training at {'x'.join(map(str, report['size']))}, through import, every export, "
        f"compare and choose by the command line alone. {hardware['cores']} cores ({hardware['cpu']}), "
        f"`python -m benchmarks.import_files`; every row is in `{results.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


KNOWN = {"nothing known": "the data never seen before", "known": "the second time"}
"""How ``benchmarks.streaming_speed`` names its starts → what a reader is told."""


def streaming_table(root: Path, results: Path) -> str:
    """What ``benchmarks.streaming_speed`` measured."""
    report = read_json(root / results, "python -m benchmarks.streaming_speed")
    environment = report["environment"]
    lines = ["| a split that no memory holds | measured |", "| --- | ---: |"]
    for name, row in report["start"].items():
        took = f"{row['first_step_s']:.1f} s, {row['peak_gib']:.1f} GiB at the peak"
        lines.append(f"| first step of `kdbench train`, {KNOWN[name]} | {took} |")
    for row in report["rates"]:
        low, high = row["ci95"]
        lines.append(
            f"| steps of {row['trained']}, over those from memory | {row['step_rate_over_memory']:.2f} "
            f"({low:.2f}–{high:.2f}) |"
        )
    files, trained = ("x".join(map(str, report[key])) for key in ("file_size", "trained_size"))
    hardware = environment["hardware"]
    lines += [
        "",
        f"{report['names']:,} names over {report['files']} different PNG files of {files}, trained at {trained}, "
        f"{report['batch_size']} images a step; all of them in memory would take "
        f"{report['memory_for_all_bytes'] / 2**30:.0f} GiB. {hardware['cores']} cores ({hardware['cpu']}), "
        f"`{environment['command']}`; every block is in `{results.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


def processors_table(root: Path, results: Path) -> str:
    """What ``benchmarks.int8_processors`` measured."""
    report = read_json(root / results, "python -m benchmarks.int8_processors")
    cells = [
        [
            title_of(row["method"]), row["format"], "7 bits, kdbench's" if row["weights"] == "half range" else "8 bits",
            fraction(row["miou"]), fraction(row["miou_avx2"]), f"{row['same_pixels']:.2%}",
        ]
        for row in report["rows"]
    ]  # fmt: skip
    header = ["int8 export", "engine", "weights", "mIoU with VNNI", "mIoU on AVX2", "pixels with the same class"]
    environment = report["environment"]
    return (
        f"{markdown.table(header, cells)}\n\n"
        f"{report['dataset']} val, {report['images']} images. With VNNI: {environment['hardware']['cpu']}. AVX2: "
        "OpenVINO held to it by `ONEDNN_MAX_CPU_ISA`, ONNX Runtime in QEMU's emulation of a Haswell. Revision "
        f"`{environment['git']['revision'][:12]}`, `{environment['command']}`; all of it is in "
        f"`{results.as_posix()}`.\n"
    )


def threads_table(root: Path, results: Path) -> str:
    """What ``benchmarks.thread_settings`` measured."""
    report = read_json(root / results, "python -m benchmarks.thread_settings")
    lines = [
        "| a pass for its answers | cores counted | own choice over the better of 1 and 2 | 2 threads over 1 |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        ratios = (f"{at:.2f} ({low:.2f}–{high:.2f})" for at, low, high in (row["own_over_best"], row["two_over_one"]))
        lines.append(f"| {row['pass']}, {row['situation']} | {row['own_threads']} | {' | '.join(ratios)} |")
    environment = report["environment"]
    hardware = environment["hardware"]
    lines += ["", f"Wall-clock, student at {report['size']}, on {hardware['cores']} cores ({hardware['cpu']})."]
    lines += [f"Left out: {name} ({reason})." for name, reason in report["left_out"].items()]
    lines += [
        f"`kdbench compare` under a quota of one core, {setting}: median {found['median_ms']:.2f} ms, stopped "
        f"{found['throttled']:.0%} of the time, {'marked as throttled' if found['marked'] else 'not marked'}."
        for setting, found in report["latency_under_quota"].items()
    ]
    lines += [
        f"Revision `{environment['git']['revision'][:12]}`, `{environment['command']}`; every block is in "
        f"`{results.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)
