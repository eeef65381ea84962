"""Sound inputs, made by the commands themselves, and the commands that read each of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from kdbench.comparison.latency import summarise
from kdbench.data.shapes import Shapes
from kdbench.runs.files import sha256
from tests.command import run_main
from tests.onnx_models import nchw_logits

REPOSITORY = Path(__file__).resolve().parents[2]
SIDE = 64
RECIPE = """size = [64, 64]
epochs = 2
batch_size = 4
lr = 1e-3
alpha = 1.0
temperature = 4.0
precision = "fp32"
teacher_precision = "fp32"
validate_every = 1
class_weights = false
optimizer = "adam"
schedule = "cosine"
labelled = 1.0

[student]
arch = "student"

[teacher]
arch = "fpn_resnet18"
lr = 1e-3
"""
DATASET = """name = "yard"
root = "."
images = "images/{split}/*.png"
masks = "masks/{split}/{stem}.png"
group = "^([a-z]+)"
split = { train = "train", val = "val" }
ignore = [255]

[classes]
"""
FAST = ("--device", "cpu", "--threads", "1")


@dataclass(frozen=True)
class Kind:
    """A file, what it is made of, and who reads it.

    Attributes:
        form: one of ``DAMAGES``.
        commands: arguments, of which each case takes one line; "{at}" is the folder of the corpus.
        fitted: sidecars in which a damaged file's hash is written, so that its own reader meets it.
        harmless: why what is accepted of it though damaged does no harm.
        slow: it opens native formats or trains, and gets fewer cases.
        noticed: words in what an exit code of 0 says, or in its results, by which the damage was named.
    """

    name: str
    file: str
    form: str
    commands: tuple[str, ...]
    harmless: str
    fitted: tuple[str, ...] = ()
    slow: bool = False
    noticed: tuple[str, ...] = ()

    def arguments(self, command: str, at: Path) -> list[str]:
        return [part.replace("{at}", str(at)) for part in command.split()]


COMPARE = "compare --runs {at}/runs --dataset folder --device cpu --threads 1 --method baseline --backend"
REPORT = "report --runs {at}/runs --dataset folder --pictures 0 --threads 1"
PLOT = "plot --runs {at}/runs --dataset folder"
CHECK = "data check --dataset folder --data-root {at}/data --threads 1"
PREDICT = "predict --runs {at}/runs --dataset folder --method baseline --device cpu --threads 1"
TRAIN = "train --method baseline --dataset folder --data-root {at}/data --device cpu --threads 1"
AGAIN = f"{TRAIN} --recipe {{at}}/recipe.toml --resume --runs"
FOREIGN = "--dataset folder --data-root {at}/data --runs {at}/foreign --name theirs --timeout 15 --threads 1"
ROWS = ("failed", "left out")
BASELINE, EXPORT = "runs/folder/baseline/student.json", "runs/folder/baseline/exports/onnx-fp32/mask.json"
VALUE = "a value of the field's own type, or a field that this command does not read"

KINDS = (
    Kind("a training's sidecar", BASELINE, "json",
         (f"{COMPARE} torch", REPORT, PLOT, f"{PREDICT} {{at}}/photo.png", f"{AGAIN} {{at}}/runs",
          "export --runs {at}/runs --dataset folder --method baseline --format onnx --threads 1",
          "train --from {at}/runs/folder/baseline/student.json --runs {at}/past --device cpu --threads 1"),
         f"it says {VALUE}", noticed=(*ROWS, "training anew", "No gallery")),
    Kind("a teacher's sidecar", "runs/folder/teacher/teacher.json", "json",
         (f"{COMPARE} torch", REPORT, f"{AGAIN} {{at}}/runs --method response"),
         f"it says {VALUE}", noticed=(*ROWS, "training anew")),
    Kind("an export's sidecar", EXPORT, "json",
         (f"{COMPARE} onnx", REPORT, f"{PREDICT} --backend onnx {{at}}/photo.png"),
         f"it says {VALUE}", noticed=(*ROWS, "no sidecar")),
    Kind("a history", "runs/folder/baseline/history.jsonl", "lines", (PLOT, REPORT),
         "rows of finite numbers: curves are drawn as they are written, figures of tables come from elsewhere",
         noticed=("note:",)),
    Kind("a comparison", "runs/folder/compare.json", "json",
         (REPORT, "choose --runs {at}/runs --dataset folder", "choose --results {at}/runs/folder/compare.json",
          "package --runs {at}/runs --dataset folder --output {at}/package --overwrite"),
         f"it says {VALUE}"),
    Kind("latency rounds", "runs/folder/latency/torch.json", "json", (REPORT,),
         "rounds are shown only where their number and median are those of the row"),
    Kind("a gate's recording", "gate.json", "json", ("regress --replay {at}/gate.json --json {at}/replayed.json",),
         f"it says {VALUE}; the verdict is judged again from the calls"),
    Kind("a dataset file", "data/yard.toml", "toml", ("data check --dataset {at}/data/yard.toml --threads 1",),
         "another dataset that fits its files"),
    Kind("a recipe", "recipe.toml", "toml", ("train --method baseline --dataset folder --data-root {at}/none --recipe {at}/recipe.toml --runs {at}/other",),
         "another recipe within the bounds of every field", noticed=("recipe",)),
    Kind("names of classes", "data/classes.txt", "text", (CHECK, f"{COMPARE} torch"),
         "other names, as many as masks need; comparing holds them against those of the training", noticed=ROWS),
    Kind("an image", "data/images/train/train0.png", "png", (CHECK,),
         "what follows the end of a PNG file is no part of it", noticed=()),
    Kind("a photo", "photo.jpg", "bytes", (f"{PREDICT} {{at}}/photo.jpg",),
         "JPEG has no checksums: other pixels of a picture that somebody looks at"),
    Kind("a mask", "data/masks/train/train0.png", "png", (CHECK,),
         "what follows the end of a PNG file is no part of it"),
    Kind("a checkpoint", "runs/folder/baseline/student.safetensors", "safetensors",
         (f"{COMPARE} torch", f"{PREDICT} {{at}}/photo.png"),
         "other weights of the same shapes, whose hash was made to fit: a student that predicts otherwise",
         fitted=(BASELINE,), noticed=ROWS),
    Kind("weights to start from", "start.safetensors", "safetensors",
         ("train --method baseline --dataset folder --data-root {at}/data --recipe {at}/recipe.toml --device cpu "
          "--epochs 1 --student-weights {at}/start.safetensors --runs {at}/started --threads 1",),
         "other weights of the same shapes", slow=True),
    Kind("a resume state", "interrupted/folder/baseline/state.pt", "bytes", (f"{AGAIN} {{at}}/interrupted",),
         "bytes of the zip file that nobody reads", slow=True),
    Kind("a file that was found of the data", "runs/folder/data.json", "json", (f"{AGAIN} {{at}}/runs",),
         "a cache: what does not fit is found again"),
    Kind("an ONNX file from elsewhere", "theirs.onnx", "onnx",
         ("predict {at}/theirs.onnx {at}/photo.png --output-dir {at}/predicted --timeout 15 --threads 1",
          f"import {{at}}/theirs.onnx {FOREIGN} --mean 0.5,0.5,0.5 --std 0.2,0.2,0.2",
          "parity {at}/theirs.onnx {at}/theirs.onnx --images {at}/photo.png --timeout 15"),
         "another network that runs", slow=True),
    Kind("an exported ONNX file", "runs/folder/baseline/exports/onnx-fp32/mask.onnx", "onnx",
         (f"{COMPARE} onnx", f"{PREDICT} --backend onnx {{at}}/photo.png"),
         "another network that runs, whose hash was made to fit: its row has its own mIoU and agreement",
         fitted=(EXPORT,), slow=True, noticed=ROWS),
    Kind("an import's sidecar", "runs/folder/stranger/imported.json", "json",
         ("compare --runs {at}/runs --dataset folder --device cpu --threads 1 --method stranger --backend onnx", REPORT,
          "export --runs {at}/runs --dataset folder --method stranger --format onnx --threads 1"),
         f"it says {VALUE}", slow=True, noticed=ROWS),
)  # fmt: skip


def stand_in_for_latency(cases, images, *, keep_json, **_):
    """Sound figures at once: what reads damaged files comes before and after them."""
    rounds = [(5 + i % 7 / 10) / 1e3 for i in range(40)]
    entries = [{"extra_info": {"case": case.name, "throttled": 0.0}, "stats": {"data": rounds}} for case in cases]
    keep_json.parent.mkdir(parents=True, exist_ok=True)
    keep_json.write_text(json.dumps({"benchmarks": entries}))
    return {case.name: summarise(np.array(rounds) * 1e3) for case in cases}


def quick_latency():
    return mock.patch("kdbench.comparison.timed_rows.measure", stand_in_for_latency)


def make_corpus(at: Path, run: Callable[[list[str]], int] = run_main) -> None:
    """Write the files of all kinds under a folder, which must be there."""
    from trainers.arm import Arm

    make_data(at / "data")
    (at / "recipe.toml").write_text(RECIPE)
    scene = Image.fromarray(np.ascontiguousarray(Shapes("val")[0].image[:SIDE, :SIDE]))
    scene.save(at / "photo.png")
    scene.save(at / "photo.jpg")
    nchw_logits(at / "theirs.onnx", classes=10, height=SIDE, width=SIDE)
    shutil.copy(REPOSITORY / "tests/golden/regress.json", at / "gate.json")
    kept, save_state = at / "interrupted/folder/baseline", Arm.save_state
    kept.mkdir(parents=True)

    def keep(arm):
        save_state(arm)
        if arm.method == "baseline" and arm.epochs_done == 1:
            shutil.copy(arm.state_file, kept / "state.pt")

    data = ["--dataset", "folder", "--data-root", str(at / "data"), "--runs", str(at / "runs")]
    recipe = ["--recipe", str(at / "recipe.toml"), *FAST]
    with mock.patch.object(Arm, "save_state", keep), quick_latency():
        for command in (
            ["train", "--method", "teacher,baseline,response", *data, *recipe],
            ["export", "--method", "baseline", "--format", "onnx", "--allow-drift", *data, "--threads", "1"],
            ["import", str(at / "theirs.onnx"), "--name", "stranger", *data, "--mean", "0,0,0", "--std", "1,1,1"],
            ["compare", "--backend", "torch,onnx", "--method", "baseline,response", *data, *FAST],
        ):
            assert run(command) == 0, command
    shutil.copy(at / "runs/folder/baseline/student.safetensors", at / "start.safetensors")


def make_data(root: Path) -> None:
    """The dataset folder of the corpus: 4 training and 2 validation scenes."""
    names = Shapes("val").classes
    for split, count in (("train", 4), ("val", 2)):
        scenes = Shapes(split)
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
            for index in range(count):
                scene = scenes[index]
                pixels = scene.image if kind == "images" else scene.label
                cut = Image.fromarray(np.ascontiguousarray(pixels[:SIDE, :SIDE]))
                cut.save(root / kind / split / f"{split}{index}.png")
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    (root / "yard.toml").write_text(DATASET + "".join(f"{name} = {index}\n" for index, name in enumerate(names)))


def fit(kind: Kind, at: Path) -> None:
    """Write a damaged file's hash where its own is."""
    for name in kind.fitted:
        document = json.loads((at / name).read_text())
        document["sha256"] = sha256(at / kind.file)
        document.pop("seal", None)
        (at / name).write_text(json.dumps(document))
