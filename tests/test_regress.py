"""``kdbench regress`` on real files, in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest

from benchmarks.extra_layers import add_layers
from kdbench.regress.inputs import make_inputs
from kdbench.regress.record import Recording
from tests import forking
from tests.conftest import REPOSITORY
from tests.onnx_models import nchw_logits, save_model

FLOAT = onnx.TensorProto.FLOAT


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small network, the same much slower, and a different one."""
    folder = tmp_path_factory.mktemp("models")
    nchw_logits(folder / "base.onnx", height=96, width=96)
    add_layers(folder / "base.onnx", folder / "slow.onnx", channels=256)
    nchw_logits(folder / "other.onnx", seed=5, height=96, width=96)
    return folder


@pytest.fixture(scope="module")
def regression(models, tmp_path_factory):
    """A finished run that found the slow model slower: (process, folder with gate.json, .md and .png)."""
    folder = tmp_path_factory.mktemp("gate")
    done = run("--baseline", models / "base.onnx", "--candidate", models / "slow.onnx", "--json", folder / "gate.json",
               "--budget", 50, "--threads", 1)  # fmt: skip
    return done, folder


def command(*arguments):
    return [sys.executable, "-m", "kdbench", "regress", *map(str, arguments)]


def run(*arguments):
    return forking.run(command(*arguments))


def test_a_slower_model_is_a_regression(regression):
    done, folder = regression
    assert done.returncode == 1, done.stderr
    document = json.loads((folder / "gate.json").read_text())
    assert document["verdict"] == "regression"
    assert document["ratio"] > 1.5
    low, high = document["ci95"]
    assert low < document["ratio"] < high
    # On a slow machine several looks fall together, and spend together: 7 blocks are the fewest that can decide.
    assert document["blocks"] == len(document["recording"]["cells"][0]["blocks"]) >= 7
    assert document["seconds"] < 60
    cell = document["cells"][0]
    assert cell["control"]["ratio"] == pytest.approx(1, abs=0.3)
    assert (folder / "gate.png").read_bytes().startswith(b"\x89PNG")
    summary = (folder / "gate.md").read_text()
    assert summary.startswith("## Latency: regression")
    assert "| base | onnx-file | **regression** |" in summary
    said = done.stdout.splitlines()
    assert any(line.startswith("Latency: regression. Slower by more than 1%") for line in said)
    (row,) = (line.split() for line in said if line.startswith(" base "))
    (ours,) = (line.strip("| ").split(" | ") for line in summary.splitlines() if line.startswith("| base "))
    assert row == ["base", "regression", *ours[3:6], ours[7]]
    assert "1 thread, cpu" in done.stdout


def test_every_figure_follows_from_the_recorded_calls(regression):
    document = json.loads((regression[1] / "gate.json").read_text())
    block = document["recording"]["cells"][0]["blocks"][0]
    ratios = []
    for round_ in block["rounds"]:
        assert round_["order"] == round_["order"][::-1]  # there and back
        assert sorted(round_["order"][:3]) == ["baseline", "candidate", "control"]
        medians = {arm: [] for arm in round_["order"]}
        for arm, calls in zip(round_["order"], round_["calls_ms"], strict=True):
            medians[arm].append(np.log(np.median(calls)))
        ratios.append(np.mean(medians["candidate"]) - np.mean(medians["baseline"]))
    recording = Recording.read(regression[1] / "gate.json")
    assert recording.cells[0].blocks[0].ln_ratio("candidate") == pytest.approx(np.median(ratios))
    orders = {tuple(r.order) for b in recording.cells[0].blocks for r in b.rounds}
    assert len(orders) > 1
    assert recording.cells[0].calls("baseline").size == recording.cells[0].calls("candidate").size


def test_a_replay_gives_the_same_verdict_and_document(regression, kdbench, tmp_path):
    done = kdbench("regress", "--replay", regression[1] / "gate.json", "--json", tmp_path / "again.json")
    assert done.code == 1
    assert (tmp_path / "again.md").read_text() == (regression[1] / "gate.md").read_text()
    assert (tmp_path / "again.json").read_text() == (regression[1] / "gate.json").read_text()
    assert f"written: {tmp_path / 'again.json'} (.md, .png beside it)" in done.out
    done = kdbench("regress", "--replay", regression[1] / "gate.json", "--json", "-")
    assert done.code == 1
    again, first = json.loads(done.out), json.loads((regression[1] / "gate.json").read_text())
    assert again == first


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--margin", 10), "--margin: got it beside --replay, expected it when measuring"),
        (("--tolerance", 20), "--tolerance: got it beside --replay, expected it when measuring"),
        (("--json", "again.txt"), "--json: got 'again.txt', expected a file that ends in .json, or -"),
    ],
)
def test_what_a_replay_cannot_do_is_refused(regression, kdbench, flags, said):
    done = kdbench("regress", "--replay", regression[1] / "gate.json", *flags)
    assert (done.code, said in done.err) == (2, True)


def test_a_cell_has_its_own_verdict_whatever_others_are_called():
    recording = Recording.read(REPOSITORY / "tests/golden/regress.json")
    (cell,) = recording.cells
    unlooked = cell.model_copy(update={"looks": []})
    recording.cells = [unlooked, cell, unlooked]
    assert [judgement is None for judgement in recording.judgements()] == [True, False, True]


def test_numbers_of_another_machine_are_no_pass(regression, kdbench, tmp_path):
    document = json.loads((regression[1] / "gate.json").read_text())
    for block in document["recording"]["cells"][0]["blocks"]:
        for round_ in block["rounds"]:  # the candidate is the baseline now
            round_["order"] = [{"baseline": "x"}.get(arm, arm) for arm in round_["order"]]
            base = round_["calls_ms"][round_["order"].index("x")]
            round_["calls_ms"] = [list(base) for _ in round_["order"]]
            round_["order"] = ["baseline" if arm == "x" else arm for arm in round_["order"]]
    # Exactly equal calls everywhere: ratio 1, control 1.
    file = tmp_path / "gate.json"
    file.write_text(json.dumps(document))
    assert kdbench("regress", "--replay", file).code == 0
    document["recording"]["environment"]["hardware"]["cpu"] = "Another CPU"
    file.write_text(json.dumps(document))
    done = kdbench("regress", "--replay", file)
    assert done.code == 3
    assert "another machine" in done.err


@pytest.mark.slow
def test_the_same_file_passes(models):
    done = run("--baseline", models / "base.onnx", "--candidate", models / "base.onnx", "--json", "-", "--threads", 1)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["verdict"] == "pass"
    assert document["recording"]["cells"][0]["outputs"] == "the same class on 100.000% of pixels"


@pytest.mark.needs("openvino", "nncf")
def test_a_budget_too_short_for_a_verdict_is_inconclusive(exported, tmp_path):
    folder = exported.export("baseline", "openvino", "int8", "mask").parent
    done = run("--baseline", folder, "--candidate", folder, "--budget", 10, "--json", tmp_path / "gate.json")
    assert done.returncode == 3, done.stderr
    assert "--budget" in done.stdout
    assert done.stderr.startswith("warning: baseline/openvino-int8/mask: a verdict needs 7 blocks, one takes ")
    assert "--budget 10 will not do and ends inconclusive; try --budget " in done.stderr.splitlines()[0]
    document = json.loads((tmp_path / "gate.json").read_text())
    assert [cell["name"] for cell in document["cells"]] == ["baseline/openvino-int8/mask"]


def test_ctrl_c_leaves_what_was_measured(models, tmp_path):
    process = subprocess.Popen(
        command("--baseline", models / "base.onnx", "--candidate", models / "base.onnx", "--budget", 600,
                "--tolerance", 1.1, "--json", tmp_path / "gate.json"),
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "gate.json").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Interrupted after" in out
    document = json.loads((tmp_path / "gate.json").read_text())
    assert document["verdict"] == "inconclusive"
    assert document["blocks"] >= 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_gate_leaves_a_readable_recording_and_no_worker(models, tmp_path):
    process = subprocess.Popen(
        command("--baseline", models / "base.onnx", "--candidate", models / "base.onnx", "--budget", 600,
                "--tolerance", 1.1, "--json", tmp_path / "gate.json"),
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "gate.json").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    import psutil

    children = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert Recording.read(tmp_path / "gate.json").cells[0].blocks
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


class TestNeverAPass:
    """Exit code 2 and one line: nothing is measured."""

    def refused(self, kdbench, *arguments):
        done = kdbench("regress", "--json", "-", *arguments)
        assert done.code == 2
        assert done.err.count("\n") == 1
        return done.err

    def test_missing_baseline(self, kdbench, models):
        error = self.refused(kdbench, "--baseline", models / "none.onnx", "--candidate", models / "base.onnx")
        assert "none.onnx' does not exist" in error

    def test_nothing_given(self, kdbench):
        assert "expected --baseline and --candidate" in self.refused(kdbench)

    def test_an_empty_folder(self, kdbench, models, tmp_path):
        error = self.refused(kdbench, "--baseline", tmp_path, "--candidate", models / "base.onnx")
        assert "holds nothing to time" in error

    def test_stored_numbers(self, kdbench, models, regression):
        error = self.refused(kdbench, "--baseline", regression[1] / "gate.json", "--candidate", models / "base.onnx")
        assert "stored milliseconds are no baseline" in error

    def test_an_unreadable_file(self, kdbench, models, tmp_path):
        (tmp_path / "cut.onnx").write_bytes((models / "base.onnx").read_bytes()[:-100])
        self.refused(kdbench, "--baseline", models / "base.onnx", "--candidate", tmp_path / "cut.onnx")

    def test_different_outputs(self, kdbench, models):
        error = self.refused(kdbench, "--baseline", models / "base.onnx", "--candidate", models / "other.onnx")
        assert "compute different things" in error
        assert "--allow-different-outputs" in error

    def test_other_inputs(self, kdbench, models, tmp_path):
        nchw_logits(tmp_path / "larger.onnx", height=128, width=96)
        error = self.refused(kdbench, "--baseline", models / "base.onnx", "--candidate", tmp_path / "larger.onnx")
        assert "1x3x128x96 float32" in error

    def test_a_cell_that_the_candidate_lacks(self, kdbench, exported, tree):
        (tree.export("baseline", "onnx", "int8", "mask")).unlink()
        error = self.refused(kdbench, "--baseline", exported.runs, "--candidate", tree.runs, "--backend", "onnx")
        assert "lacks baseline/onnx-int8/mask" in error

    def test_a_model_that_crashes_the_engine(self, kdbench, models, tmp_path):
        # Its reshape does not fit, which shows when it runs.
        save_model(
            tmp_path / "broken.onnx", {"x": (FLOAT, [1, 3, 96, 96])}, {"y": (FLOAT, [1, 4, 8, 8])},
            [onnx.helper.make_node("Reshape", ["x", "shape"], ["y"])],
            [onnx.numpy_helper.from_array(np.array([1, 4, 8, 8]), "shape")],
        )  # fmt: skip
        error = self.refused(kdbench, "--baseline", models / "base.onnx", "--candidate", tmp_path / "broken.onnx")
        assert "broken.onnx' cannot be timed" in error

    def test_a_recording_that_is_none(self, kdbench, tmp_path):
        file = tmp_path / "compare.json"
        file.write_text('{"schema_version": 1, "rows": []}')
        assert "is no gate's file" in self.refused(kdbench, "--replay", file)

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--tolerance", "1"], "expected more than --margin"),
            (["--threads", "100000"], "expected at most"),
            (["--images", "nowhere"], "'nowhere' does not exist"),
            (["--json", "gate.txt"], "expected a file that ends in .json"),
            (["--json", "/dev/null/gate.json"], "cannot be written"),
            (["--base-ref", "HEAD"], "or --base-ref alone"),
            (["--method", "mine"], "--method: got 'mine'"),
        ],
    )
    def test_flags(self, kdbench, models, flags, said):
        sides = ["--baseline", models / "base.onnx", "--candidate", models / "base.onnx"]
        assert said in self.refused(kdbench, *sides, *flags)


def test_extra_layers_change_nothing_but_the_time(models):
    import onnxruntime

    image = make_inputs((1, 3, 96, 96), "float32", [], 0)[0][0]
    ours, theirs = (
        onnxruntime.InferenceSession(models / name).run(None, {"pixels": image})[0]
        for name in ("base.onnx", "slow.onnx")
    )
    assert np.array_equal(ours, theirs)
