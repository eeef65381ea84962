"""Fixtures: the command line as a person uses it, and small real inputs."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

# One thread everywhere, in this process and those that tests start: on tiny inputs a second one only waits, and weights
# are compared bit for bit between processes. Before torch is imported, which reads it once.
os.environ["OMP_NUM_THREADS"] = "1"
# Where a test asks for two, a thread that waits lets others compute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# glibc reads these when a process starts: pytest-xdist's and those that tests start keep the memory of tensors that are
# gone, instead of asking the kernel for the same pages again.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(1 << 28))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 30))

from kdbench.data.shapes import Shapes
from tests import forking
from tests.command import run_main
from tests.conditions import ENGINE_BUILDER, HAS_GPU, hidden_gpu, missing, missing_import
from tests.traced import graphs_traced_once

forking.look_for_cycles_seldom()
# Before torchmetrics, which imports torchvision by itself, so that every test file runs alone and in any order.
importlib.import_module("kdbench.torchvision_compat")

REPOSITORY = Path(__file__).resolve().parent.parent

TINY_RECIPE = """
size = [64, 64]
epochs = 2
batch_size = 4
lr = 1e-3
precision = "fp32"
teacher_precision = "fp32"
validate_every = 1
jitter = 0.2
scale_min = 0.8
scale_max = 1.3

[teacher]
arch = "fpn_resnet18"
"""


LONGEST = (
    "fuzz",
    "regress",
    "compare",
    "train_processes",
    "latency_suite",
    "foreign_export",
    "train_interrupted",
    "killed",
)
"""Files that take longest, first: so that none of two processes has one left when the other is done."""


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A module that imports an absent package is skipped, and says which, instead of stopping the run."""
    report = yield
    if report.failed and (reason := missing_import(report.longrepr)):
        report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"Skipped: {reason}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """The same for a test or a fixture that comes to the absent package only when it runs."""
    report = yield
    if report.failed and (reason := missing_import(call.excinfo.exconly())):
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, f"Skipped: {reason}")
    return report


def pytest_runtest_setup(item):
    """Skip, before any fixture is made, what the marks ``needs`` and ``gpu`` say cannot run here."""
    packages = [package for mark in item.iter_markers("needs") for package in mark.args]
    if reason := missing(*packages):
        pytest.skip(reason)
    if not HAS_GPU and item.get_closest_marker("gpu"):
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(scope="session", autouse=True)
def gpu_hidden():
    """For session fixtures as for tests; ``gpu_shown`` undoes it where the mark ``gpu`` asks for the GPU."""
    with hidden_gpu():
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_processes():
    """Comparisons in this process fork their benchmark processes; commands that tests start by themselves do not."""
    with forking.latency_in_a_fork():
        yield
    forking.close()


@pytest.fixture(autouse=True)
def gpu_shown(request):
    with hidden_gpu(hide=request.node.get_closest_marker("gpu") is None):
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """Undo what loading a backend with other threads did to this process."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def kdbench(capsys):
    """Run ``kdbench ARGUMENTS`` in this process: exit code, stdout, stderr. A traceback fails the test."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        code = run_main(arguments)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def folder_dataset(tmp_path_factory):
    """A --dataset folder of real files: 8 training and 4 validation scenes of 64 x 96 with 10 classes."""
    root = tmp_path_factory.mktemp("folder")
    for split, count in (("train", 8), ("val", 4)):
        scenes = Shapes(split)
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            scene = scenes[index]
            Image.fromarray(np.ascontiguousarray(scene.image[:64, :96])).save(
                root / "images" / split / f"{split}{index}.png"
            )
            Image.fromarray(np.ascontiguousarray(scene.label[:64, :96])).save(
                root / "masks" / split / f"{split}{index}.png"
            )
    (root / "classes.txt").write_text("\n".join(Shapes("val").classes) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_arguments(folder_dataset, tiny_recipe):
    """Flags of ``kdbench train`` for a training of seconds."""
    return ["--dataset", "folder", "--data-root", folder_dataset, "--recipe", tiny_recipe, "--device", "cpu"]


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder of this session's own, the same in each of pytest-xdist's processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def traced_once(shared_folder):
    if missing("torch", "onnx"):
        yield
        return
    with graphs_traced_once(shared_folder / "traced"):
        yield


@pytest.fixture(scope="session")
def made_once(shared_folder):
    """Make a folder of this session's own, or take it as another of pytest-xdist's processes made it."""

    def make_or_take(name, make):
        folder, finished = shared_folder / name, shared_folder / f"{name}.finished"
        with FileLock(shared_folder / f"{name}.lock"):
            if not finished.exists():
                folder.mkdir()
                make(folder)
                finished.touch()
        return folder

    return make_or_take


@pytest.fixture(scope="session")
def trained_runs(made_once, tiny_arguments):
    """`kdbench train --method all` in a process of its own: a runs folder. Copy it before changing it."""

    if reason := missing("pydantic", "rich"):
        pytest.skip(reason)

    def make(runs):
        command = [sys.executable, "-m", "kdbench", "train", "--method", "all", "--runs", runs, *tiny_arguments]
        forking.run(command, check=True)

    return made_once("trained", make)


@pytest.fixture(scope="session")
def exported(made_once):
    """A runs tree with two students; the baseline is exported to everything. Not to be changed.

    ONNX and TensorRT in fp32 with both outputs; the mask also in fp16 and int8, and to OpenVINO in fp32 and int8.
    Where a package is absent its exports are: tests of those have the mark ``needs``.
    """
    from kdbench.runs.tree import RunTree

    def make(runs):
        with hidden_gpu(hide=False):  # an engine built without the GPU does not run on every one
            make_exports(runs)

    return RunTree(made_once("exported", make), "shapes")


NEEDED = {
    ("trt", "fp32"): (ENGINE_BUILDER,),
    ("trt", "fp16"): (ENGINE_BUILDER,),
    ("trt", "int8"): (ENGINE_BUILDER, "nncf"),
    ("openvino", "fp32"): ("openvino",),
    ("openvino", "int8"): ("openvino", "nncf"),
}
"""The packages that an export needs, for those that need any beside ONNX Runtime."""


def make_exports(runs):
    from exporters.export import export_all
    from exporters.proven_export import export_as
    from kdbench.formats import PRECISIONS
    from kdbench.runs.tree import RunTree
    from tests.exports import make_job, make_student

    tree = RunTree(runs, "shapes")
    make_student(tree, "baseline", 0)
    make_student(tree, "feature", 1)
    with make_job(tree, output="logits") as job:
        export_as(job, "onnx", "fp32")
        if not missing(ENGINE_BUILDER):
            export_as(job, "trt", "fp32")
    attempts = []
    # An untrained student's classes are close to each other, so that rounding changes more of them than in earnest.
    with make_job(tree, allow_drift=True) as job:
        export_all(job, ("onnx", "trt", "openvino"), PRECISIONS, attempts.append)
    absent = {(format, precision) for format, precision in NEEDED if missing(*NEEDED[format, precision])}
    for attempt in attempts:
        key = (attempt.format, attempt.precision)
        expected = "unsupported" if key == ("openvino", "fp16") else "skipped" if key in absent else "made"
        assert attempt.status == expected, attempt


@pytest.fixture(scope="session")
def bundle(made_once, folder_dataset):
    """What ``benchmarks.gpu_bundle`` makes of an untrained student and 4 images of 64 x 96. Not to be changed."""
    from benchmarks.gpu_bundle import Bundle
    from kdbench.runs.tree import RunTree
    from tests.exports import make_student

    def make(folder):
        make_student(RunTree(folder / "runs", "folder"), "baseline", 0)
        command = [
            sys.executable, "-m", "benchmarks.gpu_bundle", "--runs", folder / "runs", "--dataset", "folder",
            "--data-root", folder_dataset, "--sizes", "64x96", "--out", folder / "bundle", "--allow-drift",
        ]  # fmt: skip
        done = forking.run(command)
        assert done.returncode == 0, done.stderr
        (folder / "said.txt").write_text(done.stdout, encoding="utf-8")

    return Bundle.open(made_once("gpu-bundle", make) / "bundle")


@pytest.fixture
def declared(monkeypatch):
    """The networks of ``tests.foreign`` are architectures until the test ends."""
    from kdbench.models.architectures import ARCHITECTURES
    from tests.foreign import declare

    monkeypatch.setattr(ARCHITECTURES, "_items", {name: ARCHITECTURES[name] for name in ARCHITECTURES.names()})
    declare()


@pytest.fixture
def tree(exported, tmp_path):
    """A copy of ``exported`` that a test may break."""
    from kdbench.runs.tree import RunTree

    shutil.copytree(exported.runs, tmp_path / "runs")
    return RunTree(tmp_path / "runs", "shapes")
