"""``torchrun`` and ``accelerate launch``: what several processes train is what one trains."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from safetensors.torch import load_file

from kdbench.methods.base import distilled_methods
from kdbench.models.pixels import total
from kdbench.models.registry import build_model
from tests import forking
from tests.conftest import REPOSITORY
from tests.trainings import equal, interrupt_after
from trainers.methods import Objective
from trainers.processes import rank, share_batchnorm, world_size, wrap
from trainers.recipe import Recipe

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo, the CPU's communication")

CLASSES = 4


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def in_two_processes(function, path):
    """Run a function of this file with ``path`` in two processes that are joined by gloo."""
    code = f"import sys; from tests import test_train_processes as here; here.start_two(here.{function.__name__})"
    done = forking.run([sys.executable, "-c", code, path])
    assert done.returncode == 0, done.stderr


def start_two(function):
    """Within a process that did nothing else yet, which may be forked."""
    method = "fork" if forking.FORKS else "spawn"
    arguments = (free_port(), function, Path(sys.argv[1]))
    torch.multiprocessing.start_processes(joined, arguments, nprocs=2, start_method=method)


def joined(index, port, function, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=index, world_size=2)
    function(path)
    dist.destroy_process_group()


# Losses and gradients


def objective_of(method):
    torch.manual_seed(0)
    teacher = build_model("lraspp_mobilenet_v3_large", CLASSES).eval().requires_grad_(False)
    model = build_model("student", CLASSES)
    recipe = Recipe(feature_loss="pearson" if method == "combined" else "cosine")
    objective = Objective(model, method, recipe, teacher.tap_channels, torch.linspace(0.5, 2, CLASSES))
    # The exact gradient of a bias between two BatchNorms is 0, and in float32 rounding is all that there is of it.
    objective.double().train().class_weights = torch.linspace(0.5, 2, CLASSES)  # losses are in float32
    return objective, teacher.double()


def one_step(method):
    """Losses, gradients and BatchNorm statistics of a batch of 4, of which this process has its rows."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 64, 64, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (4, 64, 64), generator=generator)
    labels[0], labels[2, :40] = 255, 255  # the processes have unequally many valid pixels
    rows = slice(rank(), None, world_size())
    objective, teacher = objective_of(method)
    share_batchnorm(objective)
    losses_of = wrap(objective)
    losses = losses_of(
        images[rows], labels[rows], teacher.taps(images[rows]) if method in distilled_methods() else None
    )
    losses["loss"].backward()
    return {
        "losses": {name: value.detach() for name, value in losses.items()},
        "gradients": {name: p.grad for name, p in objective.named_parameters() if p.grad is not None},
        "buffers": dict(objective.named_buffers()),
    }


def save_steps(path):
    steps = {method: one_step(method) for method in ("baseline", *distilled_methods())}
    if rank() == 0:
        torch.save(steps, path)


def test_a_shared_batch_has_the_loss_and_gradients_of_the_whole(tmp_path):
    in_two_processes(save_steps, tmp_path / "two.pt")
    shared = torch.load(tmp_path / "two.pt")
    for method in ("baseline", *distilled_methods()):
        whole = one_step(method)
        assert shared[method]["losses"].keys() == whole["losses"].keys()
        for kind, rtol, atol in (("losses", 1e-6, 0), ("gradients", 1e-3, 1e-5), ("buffers", 1e-5, 1e-6)):
            for name, expected in whole[kind].items():
                actual = shared[method][kind][name]
                assert torch.allclose(actual, expected, rtol=rtol, atol=atol), (method, name)


def check_total(path):
    x = torch.tensor([1.0, 2.0]) * (rank() + 1)
    x.requires_grad_()
    (total(x) ** 2).sum().backward()
    assert total(torch.tensor([3], dtype=torch.int64)).item() == 6
    torch.save(x.grad, path / f"{rank()}.pt")


def test_total_sums_values_and_the_gradients_of_every_processes_loss(tmp_path):
    in_two_processes(check_total, tmp_path)
    for process in (0, 1):
        # Both compute (x₀ + x₁)², so that the sum of their losses has the derivative 2 · 2 (x₀ + x₁).
        assert torch.load(tmp_path / f"{process}.pt").tolist() == [12.0, 24.0]


# The command line


@pytest.fixture
def arguments(folder_dataset, tiny_recipe, tmp_path):
    """Like ``tiny_arguments``, with three validation images, which two processes cannot share equally."""
    data = shutil.copytree(folder_dataset, tmp_path / "data")
    for kind in ("images", "masks"):
        (data / kind / "val" / "val3.png").unlink()
    # Plain gradient descent: Adam's first steps are of equal size whatever rounding makes of a gradient near 0.
    recipe = tmp_path / "sgd.toml"
    recipe.write_text(tiny_recipe.read_text().replace("lr = 1e-3", 'lr = 1e-3\noptimizer = "sgd"'))
    return ["--dataset", "folder", "--data-root", str(data), "--recipe", str(recipe), "--device", "cpu"]


# --standalone binds its own port: one that was free a second ago may be another test's by now.
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def launch(launcher, *command):
    port = () if launcher is TORCHRUN else ("--main_process_port", free_port())
    return subprocess.run(
        [*launcher, *port, *module_flag(launcher), "kdbench", "train", *map(str, command)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def module_flag(launcher):
    return ("-m",) if launcher is TORCHRUN else ("--module",)


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_torchrun_has_the_loss_curve_of_one_process_and_the_exact_miou(kdbench, arguments, trained_runs, tmp_path):
    from kdbench.backends.load import load_backend
    from kdbench.comparison.evaluate import evaluate
    from kdbench.data import open_dataset

    runs = {name: tmp_path / name for name in ("one", "two")}
    for folder in runs.values():
        shutil.copytree(trained_runs / "folder" / "teacher", folder / "folder" / "teacher")
    command = ["--method", "baseline,combined", *arguments]
    assert kdbench("train", *command, "--runs", runs["one"]).code == 0
    done = launch(TORCHRUN, *command, "--runs", runs["two"])
    assert done.returncode == 0, done.stderr
    results = [line.split(":")[0] for line in done.stdout.splitlines() if ": mIoU " in line]
    assert results == ["baseline seed 0", "combined seed 0"]
    for method in ("baseline", "combined"):
        one, two = (runs[name] / "folder" / method for name in ("one", "two"))
        assert len(history(two)) == 2
        for expected, row in zip(history(one), history(two), strict=True):
            for name in set(expected) - {"seconds", "miou"}:
                assert row[name] == pytest.approx(expected[name], rel=2e-3), (method, name)
        assert len(list((two / "tensorboard").iterdir())) == 1
        assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
        sidecar = json.loads((two / "student.json").read_text())
        assert sidecar["processes"] == 2
        backend = load_backend("torch", two / "student.safetensors", output="mask", device="cpu", threads=1)
        whole = evaluate(backend, open_dataset("folder", "val", tmp_path / "data"))
        assert len(whole.confusions) == 3
        assert sidecar["miou"] == whole.miou == history(two)[-1]["miou"]


def test_when_a_process_is_killed_the_others_end_and_resume_goes_on(kdbench, arguments, tmp_path):
    command = ["train", "--method", "baseline", *arguments, "--runs", str(tmp_path / "runs")]
    launcher = subprocess.Popen(
        [*TORCHRUN, "-m", "kdbench", *command, "--epochs", "15"],
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = tmp_path / "runs" / "folder" / "baseline"
    try:
        deadline = time.monotonic() + 120
        while not (folder / "student.json").exists() and launcher.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = [p for p in psutil.Process(launcher.pid).children() if "kdbench" in p.cmdline()]
        assert len(workers) == 2
        workers[1].send_signal(signal.SIGKILL)
        assert launcher.wait(60) != 0
        assert not any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers)
    finally:
        launcher.kill()
        launcher.communicate()
    done_before = len(history(folder))
    assert done_before < 15
    # One process can go on with what two began.
    done = kdbench(*command, "--epochs", "15", "--resume")
    assert done.code == 0, done.err
    assert len(history(folder)) == 15
    assert load_file(folder / "student.safetensors")


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed")
def test_accelerate_launch_starts_processes_and_sets_the_precision(arguments, tmp_path):
    launcher = (
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "bf16", "--dynamo_backend", "no",
    )  # fmt: skip
    done = launch(launcher, "--method", "baseline", "--epochs", "1", *arguments, "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    sidecar = json.loads((tmp_path / "runs" / "folder" / "baseline" / "student.json").read_text())
    assert (sidecar["processes"], sidecar["recipe"]["precision"]) == (2, "bf16")


def test_a_precision_that_needs_a_gradient_scaler_is_refused(kdbench, arguments, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    done = kdbench("train", "--method", "baseline", *arguments)
    assert (done.code, done.err) == (
        2, "kdbench: accelerate launch --mixed_precision: got 'fp16', expected no or bf16: use bf16\n"
    )  # fmt: skip


def test_an_error_names_its_process(kdbench, arguments, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    done = kdbench("train", "--method", "baseline", *arguments, "--lr", "-1")
    assert done.err.startswith("kdbench: process 1: recipe ")


def test_more_processes_than_images_in_a_batch_are_refused(kdbench, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.batches.world_size", lambda: 5)
    done = kdbench("train", "--method", "baseline", *arguments, "--runs", tmp_path / "runs")
    assert done.code == 2
    assert "--batch-size: got 4 (of 8 images) for 5 processes, expected at least one image for each" in done.err


def test_a_resumed_run_drops_what_an_uninterrupted_one_drops(kdbench, arguments, trained_runs, tmp_path, monkeypatch):
    """Some teachers have dropout, whose random numbers must not depend on where a run was interrupted."""
    from kdbench.models.student import Student

    plain = Student.taps
    monkeypatch.setattr(Student, "taps", lambda self, images: plain(self, F.dropout(images, 0.5, self.training)))
    command = ["train", "--method", "baseline", *arguments]
    assert kdbench(*command, "--runs", tmp_path / "whole").code == 0
    # Beside other methods each drops what it drops alone.
    beside = ("train", "--method", "response,baseline", *arguments)
    shutil.copytree(trained_runs / "folder" / "teacher", tmp_path / "beside" / "folder" / "teacher")
    assert kdbench(*beside, "--runs", tmp_path / "beside").code == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, "save_state", 1)
        assert kdbench(*command, "--runs", tmp_path / "resumed").code == 130
    torch.manual_seed(12345)
    assert kdbench(*command, "--runs", tmp_path / "resumed", "--resume").code == 0
    whole, resumed, among = (
        load_file(tmp_path / name / "folder" / "baseline" / "student.safetensors")
        for name in ("whole", "resumed", "beside")
    )
    assert equal(whole, resumed)
    assert equal(whole, among)
