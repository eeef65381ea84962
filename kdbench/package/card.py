"""``MODEL_CARD.md``: what a person must know who gets the folder and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from kdbench.comparison.choice_text import between, listed, loss_sentence
from kdbench.comparison.markdown import cell, table
from kdbench.comparison.numbers import fraction, plus_minus
from kdbench.comparison.results import Row
from kdbench.comparison.seed_statistics import standard_error
from kdbench.methods.base import METHODS, recipe_fields, title_of
from kdbench.package import triton
from kdbench.package.shipped import Shipped
from kdbench.report.content import duration

APART = ("student", "student_weights", "teacher", "teacher_precision", "seed", "validate_every")
"""Fields of a recipe that the card has in other lines, or that the student's own training does not follow."""


def model_card(shipped: Shipped) -> str:
    """The text of MODEL_CARD.md."""
    sections: dict[str, Callable[[Shipped], list[str]]] = {
        "Why this one": lambda shipped: [shipped.reason],
        "The artifact": artifact,
        "Preprocessing": preprocessing,
        "Data": data,
        "Training": training,
        "Accuracy": accuracy,
        "Agreement with the reference": agreement,
        "Latency": latency,
        "Limits": limits,
        "Files": files,
    }
    parts = [f"# {shipped.name}"]
    for title, section in sections.items():
        parts += [f"## {title}", *section(shipped)]
    return "\n\n".join(parts) + "\n"


def bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def artifact(shipped: Shipped) -> list[str]:
    row, sidecar = shipped.candidate.row, shipped.sidecar
    network = cell(row.student or "unknown")
    size = "" if row.params is None else f", {row.params / 1e6:.2f}M parameters"
    size += "" if row.gflops is None else f", {row.gflops:.2f} GFLOP for one image"
    lines = [
        f"File: `{shipped.path.name}`, {shipped.format} in {row.precision}, {shipped.candidate.megabytes:.2f} MB"
        + "".join(f" with `{file.name}`" for file in shipped.files[1:]),
        f"SHA-256: `{shipped.candidate.artifact.sha256}`",
        f"Network: {network}{size}",
        f"Input `{shipped.image.name}`: {shipped.image}. Output `{shipped.result.name}`: {shipped.result}",
    ]
    if "provider" in sidecar:
        built = listed([str(name) for name in sidecar["built_for"]])
        lines.append(f"Built by {sidecar['provider']} {sidecar['provider_version']} for {built}: it runs there alone")
    if sidecar.get("calibration_images"):
        lines.append(f"Calibrated on {sidecar['calibration_images']} training images")
    return [bullets(lines)]


def preprocessing(shipped: Shipped) -> list[str]:
    height, width = shipped.size
    wanted, image = shipped.input, shipped.image
    steps = [
        "Decode to 8-bit RGB, pixels as stored: an EXIF orientation is not applied, transparency is dropped.",
        f"Resize to height {height}, width {width}, bilinear with antialiasing (Pillow's `BILINEAR`; OpenCV's has "
        "no antialiasing and gives other pixels). The aspect ratio is not kept.",
    ]
    if image.dtype == "uint8":
        steps.append("Nothing else: the model takes 8-bit pixels and normalises them itself.")
    else:
        turned = "Turn the channels from RGB to BGR. " if wanted.turns_channels else ""
        steps.append(
            f"{turned}Bring pixels to 0 … {wanted.range}, subtract the mean {', '.join(f'{v:g}' for v in wanted.mean)} "
            f"and divide by {', '.join(f'{v:g}' for v in wanted.std)}, channel by channel ({wanted.space}), in float32."
        )
    layout = "channels last" if image.channels_last else "channels first"
    steps.append(f"Give it as {image}, {layout}.")
    if shipped.result.dtype.startswith("float"):
        steps.append("The class of a pixel is the index of its largest logit.")
    steps.append("Bring the class map back to the image's size by nearest neighbour.")
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))
    return [numbered, "`run.py` does these steps."]


def data(shipped: Shipped) -> list[str]:
    about, row = shipped.comparison.dataset, shipped.candidate.row
    lines = [
        f"Measured on: {cell(about['name'])} {about['split']}, {about['images']} images",
        f"Classes, by id from 0: {', '.join(map(cell, shipped.classes))}",
        "Pixels labelled void (255) were neither learnt from nor counted: what the model says of such places is "
        "arbitrary, and it has no class for 'none of these'",
    ]
    if row.labelled is not None:
        unlabelled = f", and {row.unlabelled} images without theirs" if row.unlabelled else ""
        lines.insert(1, f"Learnt from: {row.labelled} training images with their labels{unlabelled}")
    return [bullets(lines)]


def training(shipped: Shipped) -> list[str]:
    row = shipped.candidate.row
    about = shipped.comparison.training.get(row.run)
    if about is None:
        return ["The comparison says nothing of a training: the model came from elsewhere."]
    method, recipe = row.method, about.get("recipe") or {}
    lines = [
        f"Method: {title_of(row.run)} (`{method}`)",
        seeds_line(about),
        f"{about['epochs']} epochs, {about['steps']} steps on {about['train_images']} images, "
        f"{duration(about['train_seconds'][0])} for this seed",
        f"Student: {student_of(shipped, recipe)}",
    ]
    teacher = shipped.comparison.teacher
    if method in METHODS and METHODS[method].distils:
        known = "" if teacher is None else f", mIoU {fraction(teacher.miou)}, {teacher.params / 1e6:.1f}M parameters"
        lines.append(f"Teacher: {network(recipe.get('teacher', {}))}{known}")
    lines += [
        f"Recipe: {', '.join(f'{key} {value}' for key, value in settings_of(method, recipe).items())}",
        f"Code: revision {about['revision'] or 'unknown'}, `{about['command']}`",
    ]
    return [bullets(lines)]


def seeds_line(about: dict[str, Any]) -> str:
    """Which seed the file is, and what the method's seeds have in PyTorch."""
    seeds, scores = about["seeds"], about["miou_by_seed"]
    if len(seeds) == 1:
        return f"One training, seed {seeds[0]}: how much another seed would differ is not known"
    return (
        f"This file is seed {seeds[0]} of the seeds {', '.join(map(str, seeds))}, whose mIoU in PyTorch is "
        f"{', '.join(map(fraction, scores))}: {fraction(fmean(scores))}{plus_minus(standard_error(scores))} "
        "standard error"
    )


def settings_of(method: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe a method reads: not the fields that others alone declare."""
    others = set[str]()
    if method in METHODS:
        own = {field.name for term in METHODS[method].terms for field in (term.weight, *term.fields)}
        others = recipe_fields().keys() - own
    return {key: value for key, value in recipe.items() if value is not None and key not in {*APART, *others}}


def student_of(shipped: Shipped, recipe: dict[str, Any]) -> str:
    return network(recipe.get("student", shipped.candidate.row.student), recipe.get("student_weights"))


def network(named: Any, weights: str | None = None) -> str:
    """A network of a recipe and what it started from; a path is told by its last part."""
    about = named if isinstance(named, dict) else {"arch": named}
    weights = weights or about.get("weights")
    began = "no starting weights recorded" if weights is None else f"started from `{last(weights)}`"
    return f"{cell(last(str(about.get('arch'))))}, {began}"


def last(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def accuracy(shipped: Shipped) -> list[str]:
    row = shipped.candidate.row
    over = f" (95% interval over images {between(row.miou_ci95, '.4f')})" if row.miou_ci95 else ""
    rows = [
        [str(index), name, fraction(value)]
        for index, (name, value) in enumerate(zip(shipped.classes, row.iou_per_class or [], strict=False))
    ]
    return [
        f"mIoU {fraction(row.miou)}{over}, of this very file. {loss_sentence(shipped.candidate)}",
        table(["id", "Class", "IoU"], rows, words=2),
        "IoU over the whole split at the labels' own resolution; void pixels are left out. A dash is a class that no "
        "label of the split has: it is not in the mean, and nothing is known of it.",
    ]


def agreement(shipped: Shipped) -> list[str]:
    row, parity = shipped.candidate.row, shipped.sidecar.get("parity", {})
    lines = []
    if row.agreement_with_torch is not None:
        lines.append(
            f"{100 * row.agreement_with_torch:.3f}% of pixels have the class that {row.reference_row} of the same "
            "method gives them, over the split"
        )
    if "pixel_agreement" in parity:
        lines.append(
            f"At its export {100 * parity['pixel_agreement']:.3f}% on {parity['images']} images"
            + (" (of the network in ONNX Runtime)" if shipped.format == "trt" else "")
        )
    return [bullets(lines) if lines else "Nothing was recorded of it."]


def latency(shipped: Shipped) -> list[str]:
    comparison, row, ms = shipped.comparison, shipped.candidate.row, shipped.candidate.latency
    timing, environment = comparison.timing, comparison.environment
    hardware, engine = environment["hardware"], row.engine or {}
    tails = [f"{name} {value:.2f} ms" for name, value in (("p95", ms.p95_ms), ("p99", ms.p99_ms)) if value is not None]
    lines = [
        f"Median {ms.median_ms:.2f} ms (95% interval {between(ms.ci95_ms, '.2f')}), mean {ms.mean_ms:.2f} ± "
        f"{ms.std_ms:.2f} ms" + "".join(f", {tail}" for tail in tails),
        f"One call: {timing['call']}, batch {timing['batch']}, threads {timing['threads']}, {ms.rounds} rounds; "
        "decoding and resizing are not in it",
        f"Machine: {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, GPU "
        f"{', '.join(hardware['gpu']) or 'none'}, {hardware['os']}; ran on {engine.get('device', timing['device'])}",
        f"Versions: {', '.join(f'{name} {version}' for name, version in environment['versions'].items())}",
        f"Measured {environment['time']} by `{environment['command']}`",
    ]
    return [bullets(lines), "Another machine, thread count or version has another latency: measure there."]


def limits(shipped: Shipped) -> list[str]:
    about, row = shipped.comparison.dataset, shipped.candidate.row
    height, width = shipped.size
    name = cell(about["name"])
    lines = [
        f"Tested on {name} {about['split']} alone: not on other cameras, places, weather or light, and not on images "
        "that were damaged or made to mislead it.",
        f"It was chosen by its numbers on that split, so that they are a little too good: {chosen_of(shipped)}.",
        f"It sees {height}x{width} pixels whatever the image has: what is smaller than a few of these pixels is lost.",
        "Its answer has no confidence: a class map says a class of every pixel.",
        "Licences: kdbench does not know those of the images, nor of weights that were downloaded or handed in "
        f"({weights_of(shipped)}): ask where they came from before you pass the model on.",
    ]
    absent = [shipped.classes[i] for i, value in enumerate(row.iou_per_class or []) if value is None]
    if absent:
        lines.insert(1, f"Never measured on: {', '.join(map(cell, absent))}, which no label of the split has.")
    return [bullets(lines)]


def chosen_of(shipped: Shipped) -> str:
    rows: list[Row] = [row for row in shipped.comparison.rows if row.status == "ok"]
    return f"{len(rows)} rows were compared" if len(rows) > 1 else "it was the only row"


def weights_of(shipped: Shipped) -> str:
    about, method = shipped.comparison.training.get(shipped.candidate.row.run), shipped.candidate.row.method
    if about is None:
        return "the whole model is such"
    recipe = about.get("recipe") or {}
    taught = method not in METHODS or METHODS[method].distils
    teacher = f"; teacher {network(recipe.get('teacher', {}))}" if taught else ""
    return f"student {student_of(shipped, recipe)}{teacher}"


def files(shipped: Shipped) -> list[str]:
    obstacle = triton.why_not(shipped)
    lines = [
        "`run.py`: segments one image; `pip install -r requirements.txt`, then `python run.py IMAGE MASK.png`",
        "`manifest.json`: SHA-256 of every file, and the measurements as JSON",
        f"`model_repository/`: for NVIDIA Triton, `tritonserver --model-repository=model_repository` (model "
        f"`{shipped.name}`)"
        if obstacle is None
        else f"No model repository for NVIDIA Triton: {obstacle}",
    ]
    return [bullets(lines)]
