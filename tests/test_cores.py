"""How many cores a process may use, by value, and who keeps to it while exporting."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from exporters import export_job, quantise, to_onnx
from exporters.proven_export import prove
from exporters.quantise import few_threads, quantise_for_onnxruntime
from kdbench.backends import load_backend, onnx_runtime, torch_eager
from kdbench.backends.apart import SessionApart, _Session
from kdbench.backends.onnx_runtime import OnnxBackend
from kdbench.cli.app import App
from kdbench.comparison import latency
from kdbench.errors import BadInput
from kdbench.machine import cores
from kdbench.machine.cores import answer_threads, usable_cores
from kdbench.models.registry import build_model
from tests.exports import make_job
from tests.onnx_models import FLOAT, classifier, nchw_logits, save_model

SPINNING = "session.intra_op.allow_spinning"


@pytest.fixture
def no_openmp(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")


@pytest.mark.parametrize(
    ("affinity", "allowed", "usable", "threads"),
    [(16, 16.0, 16, 4), (3, 16.0, 3, 3), (16, 2.9, 2, 2), (8, 0.4, 1, 1), (1, 16.0, 1, 1)],
)
def test_the_smaller_of_affinity_and_quota(monkeypatch, no_openmp, affinity, allowed, usable, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)), raising=False)
    monkeypatch.setattr(cores, "quota", lambda *paths: allowed)
    assert usable_cores() == usable
    assert answer_threads() == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_this_process_bound_to_one_core(no_openmp):
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_without_affinity_the_machines_cores_count(monkeypatch, no_openmp):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    monkeypatch.setattr(cores, "quota", lambda *paths: 5.0)
    assert usable_cores() == 5


@pytest.mark.parametrize(
    ("machine", "affinity", "allowed", "openmp", "asked", "expected"),
    [
        (16, 16, 16.0, None, None, (16, "the machine")),
        (16, 3, 16.0, None, None, (3, "the affinity of this process")),
        (64, 64, 2.5, None, None, (2, "the control group's quota of 2.5")),
        (64, 64, 2.5, "1", None, (1, "OMP_NUM_THREADS")),
        (64, 64, 64.0, "128", None, (64, "the machine")),
        (64, 64, 64.0, "4,2", None, (64, "the machine")),
        (2, 1, 1.0, "1", "4", (4, "--threads")),
    ],
)
def test_what_allows_the_fewest_says_so(monkeypatch, machine, affinity, allowed, openmp, asked, expected):
    for name, value in (("OMP_NUM_THREADS", openmp), (cores.ASKED, asked)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)), raising=False)
    monkeypatch.setattr(cores, "quota", lambda *paths: allowed)
    assert cores.cores() == expected


def test_threads_that_are_asked_for_hold_within_the_command_alone(monkeypatch):
    monkeypatch.delenv(cores.ASKED, raising=False)
    with cores.asked_threads(3):
        assert cores.cores() == (3, "--threads")
        with cores.asked_threads(0):
            assert usable_cores() == 3
    assert cores.ASKED not in os.environ
    with pytest.raises(BadInput, match="--threads: got 100000, expected at most 256"), cores.asked_threads(100_000):
        pass


def test_every_command_that_computes_takes_threads(kdbench, tiny_arguments, tmp_path):
    for command in ("train", "export", "import", "compare", "parity", "predict", "regress", "report", "demo"):
        assert "--threads" in kdbench(command, "--help").out, command
    before = torch.get_num_threads()
    done = kdbench("train", "--method", "baseline", *tiny_arguments, "--runs", tmp_path, "--epochs", 1, "--threads", 2)
    torch.set_num_threads(before)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "folder" / "baseline" / "student.json").read_text())["threads"] == 2


# Where answers alone matter, threads sleep


def test_what_is_timed_knows_nothing_of_it(monkeypatch):
    monkeypatch.delenv(cores.ANSWERS, raising=False)
    before = dict(os.environ)
    with cores.answers_alone():
        assert cores.need_answers_alone()
        with cores.answers_alone():  # as a comparison within a demo
            assert cores.timed_environment() == before
        assert cores.need_answers_alone()
        assert cores.timed_environment() == before
    assert os.environ == before
    assert not cores.need_answers_alone()
    assert cores.timed_environment() == before


@pytest.mark.parametrize(
    ("ms", "taken"),
    [({1: 5, 2: 3}, 2), ({1: 5, 2: 6}, 1), ({1: 5, 2: 500}, 1)],
    ids=["two are faster", "one is faster", "a neighbour is busy"],
)
def test_pytorch_answers_on_as_many_threads_as_are_fast(monkeypatch, ms, taken):
    """Calls whose time is known: each advances the clock by that of the threads that are set."""
    before, clock, calls = torch.get_num_threads(), [0.0], []
    backend = torch_eager.TorchBackend(build_model("student", 4), output="mask", size=(32, 32))

    def infer(batch):
        calls.append(torch.get_num_threads())
        clock[0] += ms[calls[-1]] / 1000

    monkeypatch.setattr(backend, "infer", infer)
    monkeypatch.setattr(torch_eager.time, "perf_counter", lambda: clock[0])
    monkeypatch.delenv(cores.ANSWERS, raising=False)
    try:
        backend.settle_threads(2)  # nobody said that answers alone matter
        with cores.answers_alone(), cores.asked_threads(2):
            backend.settle_threads(2)
        assert calls == []
        with cores.answers_alone():
            backend.settle_threads(2)
        assert (torch.get_num_threads(), backend.details["threads"]) == (taken, taken)
        assert calls.count(2) == (2 if ms[2] > 100 else 4)  # what is that slow is not called again and again
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("options", "sleeps"), [({"untimed": True}, True), ({"computes": True}, True), ({}, False)])
def test_commands_that_sleep(monkeypatch, options, sleeps):
    monkeypatch.delenv(cores.ANSWERS, raising=False)
    seen = []
    tried = App()

    @tried.command(**options)
    def once() -> None:
        seen.append(cores.need_answers_alone())

    assert CliRunner().invoke(tried, []).exit_code == 0
    assert seen == [sleeps]


def test_comparison_scores_asleep_and_times_awake(kdbench, exported, tmp_path, monkeypatch):
    monkeypatch.delenv(cores.ANSWERS, raising=False)
    timed, scored = [], []
    run = subprocess.run

    def spy(command, **options):
        if "--benchmark-only" in command:
            timed.append(cores.ANSWERS in options["env"])
        return run(command, **options)

    monkeypatch.setattr(latency.subprocess, "run", spy)
    monkeypatch.setattr(onnx_runtime, "need_answers_alone", lambda: scored.append(cores.ANSWERS in os.environ))
    flags = ("--method", "baseline", "--backend", "onnx", "--precision", "fp32", "--rounds", 10, "--json", "-")
    shutil.copytree(exported.root, tmp_path / exported.dataset)
    done = kdbench("compare", "--runs", tmp_path, "--dataset", exported.dataset, *flags)
    assert done.code == 0, done.err
    assert timed == [False]
    assert scored == [True]


def test_a_session_sleeps_where_answers_alone_matter(exported, sessions, monkeypatch):
    path = exported.export("baseline", "onnx", "fp32", "mask")
    load_backend("onnx", path, output="mask", threads=2).close()
    with cores.answers_alone():
        load_backend("onnx", path, output="mask", threads=2).close()
    assert sessions == [(2, "1"), (2, "0")]


def test_engines_that_nobody_told_how_many_ask_for_the_cores(exported, sessions, monkeypatch):
    monkeypatch.setenv(cores.ASKED, "3")
    opened = OnnxBackend.open(exported.export("baseline", "onnx", "fp32", "mask"), output="mask")
    assert (opened.details["threads"], sessions) == (3, [(3, "1")])
    opened.close()


# Exports keep to it


@pytest.fixture
def sessions(monkeypatch):
    """The options of every ONNX Runtime session that is opened: (threads, spinning)."""
    for module in (quantise, to_onnx, export_job):
        monkeypatch.setattr(module, "answer_threads", lambda: 3)
    seen = []
    opened = onnxruntime.InferenceSession

    def spy(model, sess_options=None, *arguments, **options):
        spinning = sess_options.get_session_config_entry(SPINNING) if sess_options is not None else "default"
        seen.append((sess_options and sess_options.intra_op_num_threads, spinning))
        return opened(model, sess_options, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    return seen


def test_parity_runs_on_few_threads_that_sleep(exported, sessions):
    with make_job(exported) as job:
        candidate = to_onnx.open_onnx(exported.export("baseline", "onnx", "fp32", "mask"), job)
        prove(job, candidate, "onnx", "fp32")
    assert sessions == [(3, "0")]


def test_a_backend_that_is_timed_spins(exported, sessions):
    OnnxBackend.open(exported.export("baseline", "onnx", "fp32", "mask"), output="mask", threads=5).close()
    assert sessions == [(5, "1")]


def noisy(path):
    """A network with a constant that nothing reads, of which ONNX Runtime warns."""
    unused = numpy_helper.from_array(numpy_helper.to_array(classifier()), "nobody")
    nodes = [helper.make_node("Conv", ["image", "w"], ["logits"], name="c")]
    shapes = {"image": (FLOAT, [1, 3, 8, 8])}, {"logits": (FLOAT, [1, 4, 8, 8])}
    return save_model(path, *shapes, nodes, [classifier(), unused])


def test_the_quantisers_own_sessions_too(tmp_path, sessions):
    batches = [np.random.default_rng(i).normal(size=(1, 3, 8, 8)).astype(np.float32) for i in range(8)]
    before = onnxruntime.SessionOptions
    quantise_for_onnxruntime(noisy(tmp_path / "x.onnx"), tmp_path / "int8.onnx", batches, ())
    assert set(sessions) == {(3, "0")}
    assert onnxruntime.SessionOptions is before


def test_the_class_of_options_is_put_back_after_an_error():
    before = onnxruntime.SessionOptions

    def fail_among_few_threads():
        with few_threads():
            assert onnxruntime.SessionOptions().get_session_config_entry(SPINNING) == "0"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_among_few_threads()
    assert onnxruntime.SessionOptions is before


def test_the_two_engines_of_kdbench_parity_sleep_in_turn(tmp_path, kdbench, monkeypatch):
    asked = []

    class Recorded(SessionApart):
        def __init__(self, path, **options):
            asked.append((options["threads"], options["spinning"]))
            super().__init__(path, **options)

    monkeypatch.setattr("kdbench.comparison.parity_files.answer_threads", lambda: 3)
    monkeypatch.setattr("kdbench.backends.onnx_file.SessionApart", Recorded)
    for name in ("a", "b"):
        nchw_logits(tmp_path / f"{name}.onnx")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "x.png")
    done = kdbench("parity", tmp_path / "a.onnx", tmp_path / "b.onnx", "--images", tmp_path / "x.png")
    assert done.code == 0, done.err
    assert asked == [(3, False), (3, False)]


def test_a_session_apart_is_configured_as_it_was_asked(tmp_path, sessions):
    served = _Session(nchw_logits(tmp_path / "a.onnx"), threads=3, spinning=False)
    assert [value.name for value in served.about()["outputs"]]
    assert sessions == [(3, "0")]


@pytest.mark.skipif(sys.platform == "win32", reason="the log of a C++ library is not captured there")
def test_warnings_of_onnx_runtime_stay_out_of_the_terminal(tmp_path, capfd):
    path = noisy(tmp_path / "x.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert "nobody" in capfd.readouterr().err  # so that the silence below says something
    OnnxBackend.open(path, output="logits", threads=1).close()
    # Sessions with options of their own follow the default, which is set by now.
    onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("before", "inside"), [(2, 2), (4, 3)])
def test_pytorch_is_capped_while_exporting(exported, sessions, before, inside):
    torch.set_num_threads(before)
    with make_job(exported):
        assert torch.get_num_threads() == inside
    assert torch.get_num_threads() == before
