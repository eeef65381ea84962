"""Each mutant against the tests that concern it, in a process forked after the heavy imports: about a second each."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.abc
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = ("kdbench", "trainers", "exporters", "benchmarks", "tests")
TRAINING = {"trained_runs", "exported", "tree", "bundle"}
"""Fixtures that train or export first: their tests are left out, at half a minute for each mutant."""
TICK_S = 0.02
Tell = Callable[[dict[str, Any]], object]


class Replaced(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from another text than its file's."""

    def __init__(self, name: str, path: Path, code: str) -> None:
        self.name, self.path, self.code = name, path, code

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.code, str(self.path), "exec"), module.__dict__)


class _Watch:
    """Tells the first test that fails and ends the process there; leaves out the tests that train."""

    def __init__(self, tell: Tell) -> None:
        self.tell, self.ran = tell, 0

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        items[:] = [item for item in items if not TRAINING & set(item.fixturenames)]

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.ran += report.when == "call"
        self.pytest_collectreport(report)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.tell({"failed": report.nodeid})
            os._exit(0)


def run_forked(work: Callable[[Tell], None], limit_s: float) -> dict[str, Any] | None:
    """What ``work`` tells in a process of its own; None where it takes longer, which ends it and its children.

    Time is counted in this process's own steps: where a machine stops both for a while, nothing runs out.
    """
    folder = Path(tempfile.mkdtemp(prefix="mutation-"))
    answer = folder / "answer.json"
    if not (child := os.fork()):
        try:
            os.setsid()
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silence, stream)
            os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
            try:
                work(lambda found: answer.write_text(json.dumps(found), encoding="utf-8"))
            except BaseException as error:  # told by the process that waits
                answer.write_text(json.dumps({"failed": f"({error!r})"}), encoding="utf-8")
        finally:
            os._exit(0)
    try:
        for _ in range(round(limit_s / TICK_S)):
            ended, _ = os.waitpid(child, os.WNOHANG)
            if ended:
                # A fault may end the whole process, or the temporary folder.
                return json.loads(answer.read_text()) if answer.exists() else {"failed": "(the process ended)"}
            time.sleep(TICK_S)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_tests(tests: Sequence[str], replaced: Replaced | None, tell: Tell) -> None:
    """Run test files, until one fails, with a module's text replaced; to be called in a forked process."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    if replaced is not None:
        sys.meta_path.insert(0, replaced)
    watch = _Watch(tell)
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly", "--tb=no"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    options += ["--rootdir", str(REPOSITORY), "--basetemp", str(Path(tempfile.gettempdir()) / "pytest")]
    code = int(pytest.main([*options, *(str(REPOSITORY / "tests" / f"test_{name}.py") for name in tests)], [watch]))
    others = [name for name in sys.modules if name.partition(".")[0] not in OURS]
    tell({"failed": f"(pytest ended with {code})" if code else "", "ran": watch.ran, "modules": others})


def prepare(tests: Sequence[str]) -> float:
    """Import what the tests import from elsewhere, once for all mutants.

    Returns:
        Seconds that the tests take after that, when nothing is wrong.

    Raises:
        SystemExit: they fail, so that no mutant could be told from the sound module.
    """
    found = run_forked(lambda tell: run_tests(tests, None, tell), 600)
    if found is None or found["failed"] or not found["ran"]:
        sys.exit(f"the tests {', '.join(tests)} do not pass without any fault: {found and found['failed']}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("kdbench.torchvision_compat", *found["modules"]):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.freeze()  # or every process would look through all of it when it ends
    started = time.monotonic()
    again = run_forked(lambda tell: run_tests(tests, None, tell), 600)
    assert again is not None
    assert not again["failed"], again["failed"]
    return time.monotonic() - started
