"""A forked command is what a started one is: arguments, environment, streams, end; and nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from kdbench.machine.ending import module_command
from tests import forking


def program(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)", (3, "out\n", "err\n")),
        ("import sys; sys.exit('in words')", (1, "", "in words\n")),
        ("import atexit; atexit.register(print, 'at the end')", (0, "at the end\n", "")),
        ("import os; os.kill(os.getpid(), 9)", (-9, "", "")),
        ("import sys; print(sys.argv, sys.stdin.read())", (0, "['-c', 'a', 'b'] \n", "")),
        ("print('kdbench.cli' in __import__('sys').modules)", (0, "False\n", "")),
    ],
)
def test_it_ends_as_a_process_does(code, ended):
    arguments = ("a", "b") if "argv" in code else ()
    done = forking.run(program(code, *arguments))
    assert (done.returncode, done.stdout, done.stderr) == ended
    started = subprocess.run(program(code, *arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (started.returncode, started.stdout, started.stderr) == ended


def test_a_traceback_is_exit_code_1():
    done = forking.run(program("1 / 0"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    with pytest.raises(subprocess.CalledProcessError):
        forking.run(program("1 / 0"), check=True)


def test_its_environment_is_the_one_given():
    code = "import os; print(sorted(name for name in os.environ if name.startswith('MINE')))"
    assert forking.run(program(code), env={**os.environ, "MINE_A": "1"}).stdout == "['MINE_A']\n"
    assert forking.run(program(code)).stdout == "[]\n"


def test_a_module_is_run_by_its_name_and_what_it_changes_goes_with_it():
    known = "from kdbench.methods import METHODS; METHODS._items.pop('dist'); print('dist' in METHODS.names())"
    assert forking.run(program(known)).stdout == "False\n"
    assert "dist" in forking.run([sys.executable, "-m", "kdbench", "train", "--help"]).stdout


@pytest.mark.skipif(not forking.FORKS, reason="a process is started there")
def test_what_takes_too_long_is_ended():
    started = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        forking.run(program("import time; time.sleep(60)"), timeout=0.3)
    assert time.monotonic() - started < 30


@pytest.mark.skipif(not forking.FORKS, reason="a process is started there")
def test_a_benchmark_process_is_forked_and_nothing_else():
    """``subprocess.run`` is patched for the whole suite."""
    code = "import os; print(os.getppid())"
    assert int(subprocess.run(program(code), capture_output=True, text=True).stdout) == os.getpid()
    done = subprocess.run(
        module_command("pytest", "--version"), capture_output=True, text=True, env={**os.environ}, timeout=60,
        errors="replace",
    )  # fmt: skip
    assert isinstance(done.args, list)
    assert done.stdout.startswith("pytest ")
    assert forking.run(program("import torch, sys; print('pytest' in sys.modules)")).stdout == "True\n"
