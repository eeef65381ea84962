"""benchmarks/gpu_latency.py: engines, timing, the pipeline and a whole run on the CPU; on a GPU every way."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks import gpu_latency, gpu_session, gpu_timing
from benchmarks.gpu_compile import compile_ahead
from benchmarks.gpu_engine import Engine
from benchmarks.gpu_latency import best_of_each_kind, measure_batches, selected
from benchmarks.gpu_session import CACHED_SECONDS, Session, open_scene, predict
from benchmarks.gpu_timing import Pipeline, convolution_bytes, measure_floors, time_image_to_mask, time_network
from benchmarks.gpu_ways import FORMS, USUAL, WAYS, Opener, cuda_options, errors_into, module_key, onnx_engine
from kdbench.backends import load_backend
from tests import forking
from tests.conftest import REPOSITORY

SIZE = (64, 96)
BY_NAME = {way.name: way for way in WAYS}
NOT_THERE = ("rich", "pydantic", "plotly", "openvino", "nncf", "ray", "typer")
BLOCKED = f"""
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_THERE}:
            raise ModuleNotFoundError(f"No module named '{{name}}' on the GPU machine", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def opener(bundle, tmp_path):
    return Opener(bundle, "cpu", tmp_path / "errors.log")


@pytest.mark.parametrize("name", [USUAL, "onnx fp32", "onnx fp16", "torch channels-last fp16"])
@pytest.mark.parametrize("batch", [1, 3])
def test_engines_give_the_backends_masks(opener, name, batch):
    """By the very code that runs on a GPU; 3 leaves a batch that is not full."""
    images = torch.from_numpy(np.stack([sample.image for sample in opener.bundle.samples()]))
    masks = predict(opener.open(BY_NAME[name], batch, SIZE), images)
    backend = load_backend("torch", opener.bundle.checkpoint, output="mask", size=SIZE, threads=1)
    expected = torch.from_numpy(np.concatenate([backend.infer(one[None].numpy()) for one in images]))
    # An untrained student's classes lie close together: rounding changes more of them than in earnest.
    assert float((masks == expected).double().mean()) >= (0.9 if "fp16" in name else 0.999)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_masks(opener, form):
    images = torch.from_numpy(np.stack([sample.image for sample in opener.bundle.samples()]))
    way = dataclasses.replace(BY_NAME[USUAL], name=form, form=form, channels_last=True)
    assert torch.equal(
        predict(opener.open(way, 2, SIZE), images), predict(opener.open(BY_NAME[USUAL], 1, SIZE), images)
    )


def test_masks_that_nobody_wrote_agree_with_nothing(opener):
    engine = opener.open(BY_NAME[USUAL], 1, SIZE)
    engine.enqueue = lambda: None
    assert predict(engine, torch.zeros((2, *SIZE, 3), dtype=torch.uint8)).unique().tolist() == [255]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_way_and_the_same_in_a_graph_share_what_was_compiled(opener):
    way = dataclasses.replace(BY_NAME["fused torch.compile fp16"], precision="fp32")
    images = torch.from_numpy(np.stack([sample.image for sample in opener.bundle.samples()]))
    first = opener.open(way, 1, SIZE)
    assert first.about["compile_seconds"] > 1
    assert opener.has_module(dataclasses.replace(way, graph=True), 1, SIZE)
    started = time.perf_counter()
    second = opener.open(way, 1, SIZE)
    assert time.perf_counter() - started < first.about["compile_seconds"] / 3
    usual = predict(opener.open(BY_NAME[USUAL], 1, SIZE), images)
    for engine in (first, second):
        assert float((predict(engine, images) == usual).double().mean()) >= 0.999
    opener.forget(1)
    assert not opener.has_module(way, 1, SIZE)


def test_what_libraries_write_goes_into_the_log(tmp_path, capfd):
    with errors_into(tmp_path / "log"):
        os.write(2, b"a warning of a C++ library\n")
    os.write(2, b"seen\n")
    assert (tmp_path / "log").read_text() == "a warning of a C++ library\n"
    assert capfd.readouterr().err == "seen\n"


def counting_engine(images=2):
    """Masks are the images' first channel plus one for each pass before."""
    buffer, masks = torch.zeros((images, 2, 3, 3), dtype=torch.uint8), torch.zeros((images, 2, 3), dtype=torch.uint8)
    passes = []

    def enqueue():
        masks.copy_(buffer[..., 0] + len(passes))
        passes.append(1)

    return Engine(buffer, masks, enqueue, {}), passes


def test_the_pipeline_brings_every_batch_through():
    engine, passes = counting_engine()
    images = torch.full((2, 2, 3, 3), 7, dtype=torch.uint8)
    pipeline = Pipeline(engine, images, "cpu")
    assert pipeline.run(5) > 0
    assert len(passes) == 5
    # Slots 0, 1, 2 had passes 3, 4 and 2 last.
    assert [slot.received.unique().tolist() for slot in pipeline.slots] == [[10], [11], [9]]


def test_timing_counts_passes():
    engine, passes = counting_engine()
    assert len(time_network(engine, "cpu", 3)) == 3
    assert len(passes) == 3 * gpu_timing.SAMPLE_CALLS
    images = torch.full((2, 2, 3, 3), 7, dtype=torch.uint8)
    assert all(ms > 0 for ms in time_image_to_mask(engine, images, "cpu", 4))
    assert engine.images.unique().tolist() == [7]


def test_a_slow_pass_is_timed_as_such():
    engine, _ = counting_engine()
    engine.enqueue = lambda: time.sleep(0.002)
    assert min(time_network(engine, "cpu", 2)) >= 2
    assert min(time_image_to_mask(engine, engine.images.clone(), "cpu", 2)) >= 2


def test_floors_are_rates():
    floors = measure_floors("cpu")
    assert set(floors) == {"bytes_per_second", "operations_per_second"}
    assert min(floors.values()) > 1e6


def test_convolution_bytes_by_hand(monkeypatch):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.ReLU())
    monkeypatch.setattr("kdbench.models.registry.build_model", lambda arch, classes: network.to("meta"))
    assert convolution_bytes("any", 2, (8, 8)) == 2 * (3 * 8 * 8 + 4 * 4 * 4)


def test_best_of_each_kind_and_the_usual_last():
    graph, plain, onnx = BY_NAME["torch channels-last fp16 in a CUDA graph"], BY_NAME[USUAL], BY_NAME["onnx fp16"]
    assert best_of_each_kind({plain: 5.0, onnx: 2.0, graph: 1.0, BY_NAME["onnx fp32"]: 3.0}) == [graph, onnx, plain]
    assert best_of_each_kind({plain: 1.0}) == [plain]


@pytest.mark.parametrize(("rates", "tried"), [({4: 100, 8: 140, 16: 141}, [8, 4, 16]), ({4: 100, 8: 101}, [8, 4])])
def test_batches_grow_while_it_pays(monkeypatch, rates, tried):
    asked = []
    monkeypatch.setattr(
        gpu_latency, "measure_batch", lambda _, __, way, batch, ___: asked.append(batch) or rates.get(batch)
    )
    measure_batches(None, None, [BY_NAME[USUAL]], (1, 4, 8), 0.0)
    assert asked == tried


def test_the_reference_has_no_tf32_and_the_setting_comes_back(opener, monkeypatch):
    seen = []
    monkeypatch.setattr(
        gpu_session, "predict", lambda *_: seen.append(torch.backends.cudnn.allow_tf32) or torch.zeros(4, *SIZE)
    )
    allowed = torch.backends.cudnn.allow_tf32
    open_scene(opener, opener.bundle.samples(), SIZE)
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == allowed


def test_what_fails_is_kept_and_stops_nothing(opener, tmp_path):
    session = Session(opener, tmp_path / "lines.jsonl", time.monotonic() + 1)

    def fail():
        raise RuntimeError("word for word")

    assert session.attempt("a step", {"way": "x", "batch": 1}, fail) is None
    assert session.attempt("another", {"way": "y", "batch": 1}, lambda: 3) == 3
    assert not session.has_time({"way": "z", "batch": 1}, 5.0, session.until)
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["way"]) for line in lines] == [("failed", "x"), ("failed", "z")]
    assert "RuntimeError: word for word" in lines[0]["failed"]
    assert "in fail" in lines[0]["failed"], "with the traceback: nobody can debug there"


def test_ways_are_chosen_by_name():
    names = [way.name for way in WAYS]
    assert len(names) == len(set(names))
    assert not any("," in name for name in names)
    assert [way.name for way in selected(f"onnx fp32,{USUAL}", None)] == [USUAL, "onnx fp32"]
    assert [way.name for way in selected(None, USUAL)] == names[1:]
    with pytest.raises(SystemExit, match="--skip: got 'tensort'"):
        selected(None, "tensort")


def test_a_whole_run_and_its_score(bundle, tmp_path):
    """On a machine without what the GPU machine lacks."""
    out = tmp_path / "results" / "latency.jsonl"

    def command(*arguments):
        code = f"{BLOCKED}\nsys.argv = ['gpu_latency', *{[str(a) for a in arguments]!r}]\n"
        code += "runpy.run_module('benchmarks.gpu_latency', run_name='__main__', alter_sys=True)"
        return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)

    ways = f"{USUAL},onnx fp32,onnx fp32 in a CUDA graph,tensorrt fp32"
    done = command(
        "--bundle", bundle.folder, "--sizes", "64x96", "--batches", "1,2", "--seconds", 60, "--only", ways,
        "--device", "cpu", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    kinds = {line["kind"] for line in lines}
    assert kinds == {"start", "floors", "open", "round", "batch", "failed", "end"}
    assert {line["round"] for line in lines if line["kind"] == "round"} == set(range(gpu_latency.ROUNDS + 1))
    done = command("--score", "--out", out, "--json", tmp_path / "score.json")
    assert done.returncode == 0, done.stderr
    assert max(len(line) for line in done.stdout.splitlines()) <= 120
    report = json.loads((tmp_path / "score.json").read_text(encoding="utf-8"))
    rows = {row["way"]: row for row in report["rows"]}
    assert set(rows) == set(ways.split(","))
    assert rows[USUAL]["times_faster"][0] == 1
    onnx = rows["onnx fp32"]
    assert onnx["agreement"] >= 0.999
    assert onnx["miou"] == pytest.approx(rows[USUAL]["miou"], abs=0.01)
    assert {"1", "2"} <= set(onnx["images_per_second"])
    assert onnx["images_per_second"]["2"]["pipeline"] > 0
    assert "needs a GPU" in rows["onnx fp32 in a CUDA graph"]["failed"][0]["reason"]
    assert "needs a GPU" in rows["tensorrt fp32"]["failed"][0]["reason"]


def test_without_results_the_score_names_the_command(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu_latency", "--score", "--out", str(tmp_path / "none.jsonl")]
    done = forking.run(command)
    assert (done.returncode, done.stderr.strip()) == (
        1, f"no measurements in '{tmp_path / 'none.jsonl'}': make them with `python -m benchmarks.gpu_latency`",
    )  # fmt: skip


def test_without_a_gpu_one_line_says_so():
    done = forking.run([sys.executable, "-m", "benchmarks.gpu_latency"])
    assert (done.returncode, done.stderr.strip()) == (
        1, "benchmarks.gpu_latency needs an NVIDIA GPU, and this PyTorch sees none",
    )  # fmt: skip


def test_options_of_onnx_runtimes_cuda_provider():
    assert cuda_options(BY_NAME["onnx channels-last fp16 in a CUDA graph"], 17) == {
        "user_compute_stream": "17", "enable_cuda_graph": "1", "prefer_nhwc": "1",
    }  # fmt: skip
    assert cuda_options(BY_NAME["onnx fp32"], 17) == {
        "user_compute_stream": "17", "enable_cuda_graph": "0", "prefer_nhwc": "0",
    }  # fmt: skip


def test_onnx_refuses_another_provider(bundle, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: ["OtherExecutionProvider"])
    with pytest.raises(RuntimeError, match="asked for CPUExecutionProvider, the session runs on"):
        onnx_engine(bundle.onnx(SIZE, "fp32", 1), BY_NAME["onnx fp32"], 1, SIZE, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, id=way.name, marks=[pytest.mark.slow] * (way.runtime == "torch.compile"))
        for way in WAYS
        if not way.autotune
    ],
)
def test_every_way_on_a_gpu_gives_the_same_masks(bundle, tmp_path, way):
    package = pytest.importorskip({"torch.compile": "torch", "onnx": "onnxruntime"}.get(way.runtime, way.runtime))
    if way.runtime == "onnx" and "CUDAExecutionProvider" not in package.get_available_providers():
        pytest.skip("this ONNX Runtime is the processor's: pip install onnxruntime-gpu")
    images = torch.from_numpy(np.stack([sample.image for sample in bundle.samples()]))
    opener = Opener(bundle, "cuda", tmp_path / "log")
    with torch.cuda.stream(torch.cuda.Stream()):
        masks = predict(opener.open(way, 1, SIZE), images)
        usual = predict(opener.open(WAYS[0], 1, SIZE), images)
    assert float((masks == usual).double().mean()) > 0.9


def test_what_was_not_compiled_in_time_is_not_taken_for_compiled(opener, tmp_path):
    way = BY_NAME["fused torch.compile fp16"]
    seconds, done = compile_ahead(opener.bundle.folder, "cpu", [(way, 1, SIZE)], 0.3, tmp_path / "log")
    assert done == []
    assert seconds < 30
    session = Session(opener, tmp_path / "journal", time.monotonic())
    tuned = BY_NAME["autotuned products torch.compile fp16 in a CUDA graph"]
    assert session.seconds_to_open(tuned, 1, SIZE) > session.seconds_to_open(way, 1, SIZE) > CACHED_SECONDS
    session.cached = {module_key(tuned, 1, SIZE)}
    assert session.seconds_to_open(tuned, 1, SIZE) == CACHED_SECONDS < session.seconds_to_open(tuned, 2, SIZE)
    session.cached = None
    assert session.seconds_to_open(tuned, 2, SIZE) == CACHED_SECONDS
    assert session.seconds_to_open(BY_NAME[USUAL], 1, SIZE) == 0
