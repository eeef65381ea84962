"""A command that is killed leaves no child behind, and its folders in TMPDIR go with the next command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from kdbench.machine import ending, scratch
from kdbench.machine.scratch import OWNER, ScratchFolder, remove_abandoned
from tests.conftest import REPOSITORY
from tests.onnx_models import nchw_logits

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread looks, which a suspended child lacks")
LIMIT_S = 60


def wait_for(found, what):
    until = time.monotonic() + LIMIT_S
    while not (value := found()):
        assert time.monotonic() < until, what
        time.sleep(0.05)
    return value


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )  # fmt: skip


def killed_leaves_nothing(process, part):
    """SIGKILL a command once it has a child whose command line has ``part``; its children end too."""
    try:
        parent = psutil.Process(process.pid)

        def wanted():
            children = parent.children(recursive=True)
            return children if any(part in " ".join(child.cmdline()) for child in children) else []

        children = wait_for(wanted, f"no child with {part}")
        time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    for left in alive:
        left.kill()
    assert not alive


@linux
def test_a_killed_gate_leaves_no_worker_even_a_suspended_one(tmp_path):
    model = nchw_logits(tmp_path / "a.onnx", height=64, width=64)
    command = [
        "-m", "kdbench", "regress", "--baseline", model, "--candidate", model, "--budget", 30, "--threads", 1,
        "--json", tmp_path / "gate.json",
    ]  # fmt: skip
    process = start(*command, TMPDIR=str(tmp_path))
    parent = psutil.Process(process.pid)
    # Two of the three wait, suspended, while one measures.
    wait_for(lambda: any(c.status() == psutil.STATUS_STOPPED for c in parent.children()), "no suspended worker")
    killed_leaves_nothing(process, "worker.py")
    assert list(tmp_path.glob("kdbench-regress-*")), "it was killed before it had a folder"


@linux
def test_a_killed_comparison_leaves_no_benchmark_process(trained_runs, tmp_path):
    command = [
        "-m", "kdbench", "compare", "--backend", "torch", "--method", "baseline", "--threads", 1, "--rounds", 1_000_000,
        "--runs", trained_runs, "--json", tmp_path / "results.json",
    ]  # fmt: skip
    killed_leaves_nothing(start(*command, TMPDIR=str(tmp_path)), "test_latency.py")


@linux
def test_a_killed_parent_ends_an_object_in_a_process_of_its_own():
    code = "from kdbench.machine.apart import Apart\nimport io\nif __name__ == '__main__':\n"
    code += "    Apart(io.StringIO, what='x'); import time; time.sleep(60)"
    killed_leaves_nothing(start("-c", code), "spawn_main")


@linux
def test_a_guard_ends_what_a_killed_parent_started_and_marked_and_nothing_else(tmp_path):
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    child += "time.sleep(60)"
    code = (
        "import subprocess, sys, time\n"
        "from kdbench.machine import guard\n"
        "with guard.guarded('marked'):\n"
        "    for mark in ('marked', 'other'):\n"
        f"        subprocess.Popen([sys.executable, '-c', {child!r}, mark])\n"
        "    time.sleep(60)\n"
    )
    process = start("-c", code)
    parent = psutil.Process(process.pid)
    below = wait_for(lambda: len(found := parent.children(recursive=True)) == 5 and found, "a guard and two pairs")
    started = [c for c in below if c.cmdline()[1] == "-c"]  # the guard's own command line has the mark too
    marked, other = ([c, *c.children()] for mark in ("marked", "other") for c in started if c.cmdline()[-1] == mark)
    assert len(marked) == len(other) == 2
    time.sleep(2.5)  # the guard looks every second
    process.kill()
    process.wait()
    # The guard is among them, and gone it ends nothing else.
    _, alive = psutil.wait_procs([c for c in below if c not in other], timeout=10)
    assert not alive
    assert all(c.is_running() for c in other)
    for left in other:
        left.kill()


def test_a_guard_goes_with_its_block():
    from kdbench.machine.guard import guarded

    with guarded("nothing"):
        (guard,) = [c for c in psutil.Process().children() if "guard.py" in " ".join(c.cmdline())]
    assert not guard.is_running()


@pytest.mark.skipif(os.name != "posix", reason="a parent's number stays there after its end")
def test_elsewhere_a_thread_looks(tmp_path):
    """As on macOS: the child's watch ends it once its parent is another."""
    child = (
        "import sys, os, time; sys.platform = 'darwin'; from kdbench.machine import ending; ending.LOOK_S = 0.1; "
        "ending.die_with_parent(os.getppid()); time.sleep(60)"
    )
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    killed_leaves_nothing(start("-c", code), "die_with_parent")


@linux
def test_a_child_whose_parent_is_gone_already_ends_at_once():
    code = "from kdbench.machine.ending import die_with_parent; die_with_parent(1 << 22); print('lives')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=REPOSITORY)
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_module_runs_as_ever():
    done = subprocess.run(
        [*ending.module_command("json.tool"), "--no-indent"], input=b'{"a":  1}', capture_output=True, cwd=REPOSITORY
    )
    assert (done.returncode, done.stdout.strip()) == (0, b'{"a": 1}'), done.stderr


def test_what_a_killed_command_left_is_removed_by_the_next(tmp_path, monkeypatch):
    code = (
        "from kdbench.machine.scratch import ScratchFolder; import time; from pathlib import Path\n"
        "made = ScratchFolder('export'); Path(made.name, 'big.onnx').write_bytes(b'x'); print(made.name, flush=True)\n"
        "time.sleep(60)"
    )
    left = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert left.stdout is not None
    folder = Path(left.stdout.readline().decode().strip())
    foreign = tmp_path / "kdbench-of-somebody-else"
    foreign.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "YOUNG_S", -1.0)
    try:
        remove_abandoned()
        assert (folder / "big.onnx").is_file(), "its owner lives"
    finally:
        left.send_signal(signal.SIGKILL) if os.name == "posix" else left.kill()
        left.wait()
        left.stdout.close()
    with ScratchFolder("export") as own:
        assert not folder.exists()
        assert (Path(own) / OWNER).is_file()
        remove_abandoned()
        assert Path(own).is_dir()
    assert not Path(own).exists()
    assert foreign.is_dir()


def test_a_folder_that_is_being_made_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "kdbench-export-new").mkdir()
    (tmp_path / "kdbench-export-new" / OWNER).touch()
    remove_abandoned()
    assert (tmp_path / "kdbench-export-new").is_dir()
