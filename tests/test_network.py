"""No network at import, training, export or comparison: every process is watched for sockets to other machines."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

WATCH = """
import os, sys

def watch(event, given):
    if event == "socket.connect":
        host = given[1][0] if isinstance(given[1], tuple) else ""
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = given[0] or ""
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host not in ("", "localhost", "::1", "0.0.0.0") and not host.startswith(("127.", "/")):
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {host}: {' '.join(sys.argv)[:200]}\\n")

sys.addaudithook(watch)
with open(os.environ["WATCHED"] + ".processes", "a") as file:
    file.write(f"{os.getpid()}\\n")
"""


@pytest.fixture
def watched(tmp_path):
    """Run Python in a process whose sockets, and those of its children, are written down; what was written."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    log = tmp_path / "sockets"

    def run(*arguments):
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "watch"), str(REPOSITORY)]), "WATCHED": str(log),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        processes = len(set((tmp_path / "sockets.processes").read_text().split()))
        return done, log.read_text() if log.exists() else "", processes

    return run


def test_the_watch_sees_a_connection(watched):
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 9), 0.01)\nexcept OSError: pass"
    _, seen, _ = watched("-c", code)
    assert "socket.connect 192.0.2.1" in seen
    _, seen, _ = watched("-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])")
    assert seen.count("socket.connect 192.0.2.1") == 2


def test_importing_every_module_opens_no_socket(watched):
    code = (
        "import importlib, pathlib\n"
        "for package in ('kdbench', 'trainers', 'exporters'):\n"
        "    for path in sorted(pathlib.Path(package).rglob('*.py')):\n"
        "        name = '.'.join(path.with_suffix('').parts).removesuffix('.__init__')\n"
        "        if not name.endswith(('__main__', '.worker')):\n"
        "            try: importlib.import_module(name)\n"
        "            except ImportError as error: print(name, error)\n"
    )
    done, seen, _ = watched("-c", code)
    assert (done.returncode, seen) == (0, ""), done.stderr


@pytest.mark.slow
@pytest.mark.needs("onnxruntime", "openvino", "nncf")
def test_the_whole_pipeline_opens_no_socket(watched, tmp_path):
    where = ["--dataset", "shapes", "--runs", tmp_path / "runs"]
    steps = (
        ["train", "--method", "teacher,baseline,response", *where, "--size", "64x64", "--epochs", 1, "--images", 8,
         "--batch-size", 4, "--device", "cpu"],
        ["export", "--method", "baseline", *where, "--format", "onnx,openvino", "--precision", "fp32,int8",
         "--allow-drift"],
        ["compare", *where, "--backend", "torch,onnx,openvino", "--precision", "fp32,int8", "--rounds", 10,
         "--device", "cpu", "--threads", 1],
        ["report", *where, "--pictures", 2],
        ["plot", *where],
    )  # fmt: skip
    for step in steps:
        done, seen, processes = watched("-m", "kdbench", *step)
        assert (done.returncode, seen) == (0, ""), f"{step[0]}: {seen}{done.stderr}"
    assert processes > len(steps), "children were not watched"
