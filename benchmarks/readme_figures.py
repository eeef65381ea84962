"""What README.md shows of the results files besides its table: a figure for each claim, what commands print.

Every function takes the repository's root and the paths of its files below it, and returns Markdown.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.label_tables import gain
from benchmarks.measured_tables import made_exports, supported
from kdbench.comparison.numbers import difference, fraction, plus_minus
from kdbench.comparison.results import Comparison
from kdbench.methods.base import title_of
from kdbench.runs.files import read_json
from kdbench.runs.tree import RunTree

COMPARE = "kdbench compare"


def claims(root: Path, *results: Path) -> str:
    """A bullet for each thing that kdbench does, with what was measured of it."""
    gate, networks, processors, speed, labels, training = results
    bullets = {
        gate: ("A latency gate that is right about regressions", gate_claim(read_json(root / gate, COMPARE))),
        networks: ("Every export is proven to be the same model", proof_claim(read_json(root / networks, COMPARE))),
        processors: ("One int8 file, one model", processors_claim(read_json(root / processors, COMPARE))),
        speed: ("More speed at the same accuracy", speed_claim(read_json(root / speed, COMPARE))),
        labels: ("A fair comparison, where it matters", fairness_claim(root / labels, root / training)),
    }
    lines = [f"- **{title}.** {text} ([{file.name}]({file.as_posix()}))" for file, (title, text) in bullets.items()]
    any_model = any_model_claim(read_json(root / networks, COMPARE))
    lines.append(f"- **Any model.** {any_model} ([{networks.name}]({networks.as_posix()}))")
    return "\n".join([*lines, ""])


def gate_claim(report: dict[str, Any]) -> str:
    live = [row for row in report["live"] if row["cell"] == "all"]
    same = [row for row in live if row["scenario"] == "A/A"]
    slower = [row for row in live if row["scenario"] in ("+5%", "+10%")]
    rival = "Mann-Whitney at .05, one process"

    def failed(rows: list[dict[str, Any]]) -> str:
        found = [row["verdicts"]["regression"] for row in rows]
        return f"{sum(one['times'] for one in found)} of {sum(one['of'] for one in found)}"

    wrong = [row["rivals"][rival] for row in same]
    longest = max(row["seconds_longest"] for row in live)
    return (
        f"`kdbench regress` stopped {failed(same)} pairs of identical files, and {failed(slower)} of which one was 5% "
        f"or 10% slower, on a quiet machine and beside a busy neighbour. None took longer than {longest:.0f} s. A "
        f"Mann-Whitney test on one run of each file stops {sum(one['times'] for one in wrong)} of the identical pairs."
    )


def proof_claim(report: dict[str, Any]) -> str:
    made: dict[str, list[dict[str, Any]]] = {}
    for network in report["networks"].values():
        for precision, rows in made_exports(network["exports"]["rows"]).items():
            made.setdefault(precision, []).extend(rows)
    least = {key: min(row["pixel_agreement"] for row in rows) for key, rows in made.items()}
    change = min(row["miou_candidate"] - row["miou_reference"] for row in made["int8"])
    counts = {key: len(rows) for key, rows in made.items()}
    return (
        f"It runs beside PyTorch on real images before it is kept. Over {len(report['networks'])} networks, "
        f"{counts['fp32']} fp32 exports give PyTorch's class to at least {percent(least['fp32'], 4)} of pixels and "
        f"{counts['fp16']} fp16 ones to {percent(least['fp16'], 2)}; the worst of {counts['int8']} int8 ones changes "
        f"mIoU by {difference(change)}."
    )


def processors_claim(report: dict[str, Any]) -> str:
    other = {
        weights: [100 * (1 - row["same_pixels"]) for row in report["rows"] if row["weights"] == weights]
        for weights in ("whole range", "half range")
    }
    least, most = (of(other["whole range"]) for of in (min, max))
    ours = math.ceil(100 * max(other["half range"])) / 100
    return (
        "On processors without VNNI instructions int8 files, as the quantisers of ONNX Runtime and OpenVINO make them "
        f"by themselves, give another class to {least:.1f} to {most:.1f}% of pixels; kdbench's to {ours:.2f}% at most."
    )


def percent(share: float, digits: int) -> str:
    """Rounded down, since it follows "at least"."""
    return f"{math.floor(100 * share * 10**digits) / 10**digits:.{digits}f}%"


def speed_claim(report: dict[str, Any]) -> str:
    rows = {(row["backend"], row["precision"]): row for row in report["rows"]}
    eager, onnx, openvino = (rows[name, "fp32"] for name in ("torch", "onnx", "openvino"))
    int8 = rows["openvino", "int8"]
    mious = [fraction(row["miou"]) for row in (eager, onnx, openvino, int8)]
    return (
        f"On {report['threads']} CPU threads at {'x'.join(map(str, report['size']))} the same student runs "
        f"{onnx['speedup']:.1f} times as fast in ONNX Runtime and {openvino['speedup']:.1f} times in OpenVINO as in "
        f"PyTorch (mIoU {mious[1]}, {mious[2]} and {mious[0]}), and {int8['speedup']:.1f} times in OpenVINO's int8 "
        f"({mious[3]})."
    )


def fairness_claim(labels: Path, training: Path) -> str:
    rows = read_json(labels, COMPARE)["rows"]
    fewest = min(row["labelled"] for row in rows)
    dist = next(row for row in rows if (row["labelled"], row["method"]) == (fewest, "dist"))
    together = {row["name"]: row for row in read_json(training, COMPARE)["rows"]}
    share = together["fpn_resnet18: three arms together over apart"]["ratio"]
    return (
        "Methods start from the same weights and see the same batches, and a gain is claimed only when several seeds "
        f"show it, beside what recordings held out in turn and a test split say: in the table above "
        f"{title_of('dist')} is {gain(dist['test'])} on new scenes and {gain(dist['val'])} on the known street. Three "
        f"students trained together take {share:.2f} of the time that they take apart."
    )


def gpu_claim(root: Path, results: Path) -> str:
    """A bullet: the fastest way on a GPU, side by side with PyTorch eager."""
    report = read_json(root / results, "python -m benchmarks.gpu_latency --score")
    best = min(
        (row for row in report["rows"] if row["image_to_mask_ms"] is not None), key=lambda row: row["image_to_mask_ms"]
    )
    times, low, high = best["times_faster"]
    rate = max(of["pipeline"] or of["image_to_mask"] for of in best["images_per_second"].values())
    return (
        f"- **On an NVIDIA GPU too.** On an {report['start']['gpu'][0]['name'].removeprefix('NVIDIA ')} the student "
        f"takes {best['image_to_mask_ms']:.2f} ms from image to mask at {best['size']}, {times:.1f} times "
        f"({low:.1f}–{high:.1f}) as fast as PyTorch eager in the same run, and makes {rate:,.0f} masks a second in "
        f"batches ([{results.name}]({results.as_posix()})).\n"
    )


def any_model_claim(report: dict[str, Any]) -> str:
    networks = report["networks"].values()
    rows = [network["exports"]["rows"] for network in networks]
    made = sum(len(exports) for one in rows for exports in made_exports(one).values())
    trained = sum(network[role]["exit_code"] == 0 for network in networks for role in ("student", "teacher"))
    return (
        f"{len(rows)} networks that were not written for kdbench, of timm, segmentation_models_pytorch, torchvision, "
        f"transformers and a file of one's own, were trained as student and as teacher ({trained} of {2 * len(rows)} "
        f"trainings went through) and exported ({made} of {sum(map(supported, rows))} exports were made) without an "
        f"edit to kdbench."
    )


def printed(root: Path, results: Path, networks: Path) -> str:
    """What the three commands print, and how long they took where that was measured."""
    comparison = Comparison.read(root / results)
    method, dataset = "response", comparison.dataset["name"]
    training = comparison.training[method]
    runs = re.search(r"--runs (\S+)", training["command"])
    checkpoint = RunTree(Path(runs[1] if runs else "runs"), dataset).checkpoint(method)
    seconds = [one for about in comparison.training.values() for one in about["train_seconds"]]
    exports = [network["exports"] for network in read_json(root / networks, COMPARE)["networks"].values()]
    count = {sum(map(len, made_exports(one["rows"]).values())) for one in exports}
    said = f"{method} seed {training['seeds'][0]}: mIoU {fraction(training['miou_by_seed'][0])}"
    took = [one["seconds"] for one in exports]
    return (
        f"- `train` prints a line for each student, as `{said}, {checkpoint.as_posix()}`. Those of "
        "[this table](docs/measured.md#camvid-all-labels-from-scratch) "
        f"took {min(seconds) / 60:.0f} to {max(seconds) / 60:.0f} minutes each on one thread (median "
        f"{median(seconds) / 60:.0f}).\n"
        "- `export` prints a table of the files: megabytes, the share of pixels that have PyTorch's class, mIoU and "
        f"its change. The {max(count)} exports of one network took {min(took):.0f} to {max(took):.0f} s with their "
        f"proofs ([{networks.name}]({networks.as_posix()})).\n"
        "- `compare` prints such a table, and writes it as JSON, text, Markdown and CSV.\n"
    )


def demo(root: Path, results: Path) -> str:
    """How long ``kdbench demo`` took, and what it showed, of ``benchmarks.demo_time``."""
    report = read_json(root / results, "python -m benchmarks.demo_time")
    hardware = report["environment"]["hardware"]
    rows = report["rows"]
    report_s, export_s = (max(row[f"{what}_seconds"] for row in rows) for what in ("report", "export"))
    told = []
    for row in rows:
        (found,) = (gain for gain in row["gains"] if gain["method"] == "response")
        told.append(
            f"with {row['name']} {difference(found['delta_miou'])}{plus_minus(found['standard_error'])} to "
            f"{fraction(found['baseline_miou'])} ({found['verdict']}), in {row['seconds'] / 60:.1f} minutes"
        )
    return (
        f"What {title_of('response')} distillation adds to the mIoU of the demo's baseline, and what the demo takes "
        f"after the installation, on {hardware['cores']} cores ({hardware['cpu']}): {'; '.join(told)}. The report is "
        f"{report_s:.0f} s of it at most. Exporting the students in every format and precision, which is left to you, "
        f"takes {export_s:.0f} s more ([{results.name}]({results.as_posix()})).\n"
    )
