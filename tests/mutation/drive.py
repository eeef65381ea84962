"""Each mutant against the tests that concern it, in a process forked for it alone.

The tests are collected once. A fault inside a function is swapped in after that, as the function's new code, whoever
imported it from wherever; the few that act on import are imported anew, tests and all.
"""

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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from tests.mutation.mutants import Mutant

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = ("kdbench", "trainers", "exporters", "benchmarks", "tests")
TRAINING = {"trained_runs", "exported", "tree", "bundle"}
"""Fixtures that train or export first: their tests are left out, at half a minute for each mutant."""
TICK_S = 0.005
FOREVER_S = 24 * 3600.0
Found = dict[str, Any] | None
"""``{"failed": the first test that did, or ""}``; None where time ran out."""
Tell = Callable[[dict[str, Any]], object]


class Orphaned(BaseException):
    """Whoever forked this process was killed, so that nobody waits for its answer."""

    parent: int | None = None


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
    """Tells the first test that fails and ends the process there."""

    def __init__(self, tell: Tell) -> None:
        self.tell, self.ran = tell, 0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if not TRAINING & set(item.fixturenames)]

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.ran += report.when == "call"
        self.pytest_collectreport(report)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.tell({"failed": report.nodeid})
            os._exit(0)


class _Each(_Watch):
    """Instead of running the tests, runs them for each mutant in a forked process."""

    def __init__(self, tell: Tell, name: str, mutants: Iterable[Mutant], limit_s: float, note: Any) -> None:
        super().__init__(tell)
        self.name, self.mutants, self.limit_s, self.note = name, mutants, limit_s, note

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        plugins = session.config.pluginmanager

        def run(mutant: Mutant, tell: Tell) -> None:
            plugins.unregister(self)
            plugins.register(_Watch(tell))
            swap_in(self.name, mutant)
            session.config.hook.pytest_runtestloop(session=session)
            tell({"failed": ""})

        for mutant in self.mutants:
            self.note(mutant, run_forked(lambda tell, mutant=mutant: run(mutant, tell), self.limit_s))
        return True


def swap_in(module: str, mutant: Mutant) -> None:
    """Give a function of an imported module the mutant's code, whatever it is wrapped in."""
    found: Any = sys.modules[module]
    codes = compile(mutant.code, str(found.__file__), "exec")
    for name in mutant.swap.split("."):
        found = vars(found)[name]
        codes = next(code for code in codes.co_consts if isinstance(code, CodeType) and code.co_name == name)
    if clear := getattr(found, "cache_clear", None):
        clear()
    found = getattr(found, "fget", None) or found
    while not hasattr(found, "__code__"):
        found = getattr(found, "__func__", None) or found.__wrapped__
    getattr(found, "__wrapped__", found).__code__ = codes


def run_forked(work: Callable[[Tell], None], limit_s: float) -> Found:
    """What ``work`` tells in a process of its own; None where it takes longer, which ends it.

    Time is counted in this process's own steps: where a machine stops both for a while, nothing runs out.
    """
    folder = Path(tempfile.mkdtemp(prefix="mutation-"))
    answer, forker = folder / "answer.json", os.getpid()
    if not (child := os.fork()):
        try:
            Orphaned.parent = forker
            os.setsid()
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
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
    signal_left = signal.SIGTERM
    try:
        for _ in range(round(limit_s / TICK_S)):
            ended, _ = os.waitpid(child, os.WNOHANG)
            if ended:
                child = 0
                # A fault may end the whole process, or the temporary folder.
                return json.loads(answer.read_text()) if answer.exists() else {"failed": "(the process ended)"}
            if Orphaned.parent not in (None, os.getppid()):
                raise Orphaned
            time.sleep(TICK_S)
        signal_left = signal.SIGKILL
        return None
    finally:
        if child:
            os.killpg(child, signal_left)
            os.waitpid(child, 0)
        shutil.rmtree(folder, ignore_errors=True)


def run_tests(tests: Sequence[str], replaced: Replaced | None, watch: type[_Watch], *more: Any, tell: Tell) -> None:
    """Run test files with a module's text replaced; to be called in a forked process."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    if replaced is not None:
        sys.meta_path.insert(0, replaced)
    plugin = watch(tell, *more)
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly", "--tb=no"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    options += ["--rootdir", str(REPOSITORY), "--basetemp", str(Path(tempfile.gettempdir()) / "pytest")]
    code = int(pytest.main([*options, *(str(REPOSITORY / "tests" / f"test_{name}.py") for name in tests)], [plugin]))
    others = [name for name in sys.modules if name.partition(".")[0] not in OURS]
    tell({"failed": f"(pytest ended with {code})" if code else "", "ran": plugin.ran, "modules": others})


def prepare(tests: Sequence[str]) -> float:
    """Import what the tests import from elsewhere, once for all mutants.

    Returns:
        Seconds that the tests take after that, when nothing is wrong.

    Raises:
        SystemExit: they fail, so that no mutant could be told from the sound module.
    """
    found = run_forked(lambda tell: run_tests(tests, None, _Watch, tell=tell), FOREVER_S)
    if found is None or found["failed"] or not found["ran"]:
        sys.exit(f"the tests {', '.join(tests)} do not pass without any fault: {found and found['failed']}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("kdbench.torchvision_compat", *found["modules"]):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.freeze()  # or every process would look through all of it when it ends
    started = time.monotonic()
    again = run_forked(lambda tell: run_tests(tests, None, _Watch, tell=tell), FOREVER_S)
    if again is None or again["failed"]:
        sys.exit(f"the tests {', '.join(tests)} do not pass a second time: {again and again['failed']}")
    return time.monotonic() - started


def run_mutants(module: Path, tests: Sequence[str], mutants: Sequence[Mutant], note: Any) -> None:
    """Run the tests for each mutant; ``note(mutant, found)`` is called in whatever process saw it end."""
    seconds = prepare(tests)
    limit_s = 5 + 5 * seconds
    print(f"{module}: {len(mutants)} mutants, {seconds:.1f} s when one survives", file=sys.stderr, flush=True)
    name = ".".join(module.with_suffix("").parts)
    inside = [mutant for mutant in mutants if mutant.swap]
    if inside:
        ended = run_forked(
            lambda tell: run_tests(tests, None, _Each, name, inside, limit_s, note, tell=tell), FOREVER_S
        )
        if ended is None or ended["failed"]:
            sys.exit(f"{module}: {ended and ended['failed']}")
    for mutant in mutants:
        if not mutant.swap:
            replaced = Replaced(name, REPOSITORY / module, mutant.code)
            note(mutant, run_forked(lambda tell, r=replaced: run_tests(tests, r, _Watch, tell=tell), limit_s))
