"""What ``make mutation`` found is judged to the last survivor; and the faults really reach the tests."""

from __future__ import annotations

import json
import sys
import textwrap

import pytest

from tests.conftest import REPOSITORY


def test_what_survived_is_judged_and_nine_in_ten_do_not():
    found = json.loads((REPOSITORY / "results/mutation.json").read_text(encoding="utf-8"))
    assert len(found["modules"]) >= 11
    for module, counts in found["modules"].items():
        assert (REPOSITORY / module).is_file()
        assert all((REPOSITORY / test).is_file() for test in counts["tests"])
        assert counts["killed"] + counts["timeouts"] + counts["survived"] == counts["mutants"]
        assert counts["noticed"] >= 0.9, module
        assert counts["survived"] == sum(one["module"] == module for one in found["survivors"])
    for survivor in found["survivors"]:
        assert survivor["judgement"].startswith(("equivalent", "harmless because")), survivor


MODULE = '''
from contextlib import contextmanager
from functools import lru_cache

LIMIT = 3

@contextmanager
def opened(name: str):
    """Not a docstring's fault."""
    yield name + "!"

@lru_cache
def half(number=4):
    return number / 2

class Box:
    size = 2

    @property
    def room(self):
        return self.size > LIMIT

    @staticmethod
    def inside(values):
        return [value for value in values if value]
'''


@pytest.mark.needs("mutmut")
class TestMutants:
    @pytest.fixture
    def module(self, tmp_path, monkeypatch):
        (tmp_path / "boxes_with_faults.py").write_text(textwrap.dedent(MODULE))
        monkeypatch.syspath_prepend(tmp_path)
        yield tmp_path / "boxes_with_faults.py"
        sys.modules.pop("boxes_with_faults", None)

    def test_faults_are_in_functions_properties_and_constants_and_not_in_annotations(self, module):
        from tests.mutation.mutants import mutants_of

        found = {(one.function, one.swap, one.diff) for one in mutants_of(module)}
        assert ("", "", "LIMIT = 3 → LIMIT = 4") in found
        assert ("opened", "opened", 'yield name + "!" → yield name - "!"') in found
        assert ("half", "", "def half(number=4): → def half(number=5):") in found
        assert ("Box.room", "Box.room", "return self.size > LIMIT → return self.size >= LIMIT") in found
        assert ("Box", "", "size = 2 → size = 3") in found
        assert not any("docstring" in diff or "str" in diff.partition("→")[2] for _, _, diff in found)

    def test_a_fault_is_swapped_in_whatever_the_function_is_wrapped_in(self, module):
        import boxes_with_faults as boxes
        from boxes_with_faults import half, opened

        from tests.mutation.drive import swap_in
        from tests.mutation.mutants import mutants_of

        mutants = {one.diff: one for one in mutants_of(module)}
        assert half() == 2
        with opened("a") as name:
            assert name == "a!"
        for diff in ("return number / 2 → return number * 2", 'yield name + "!" → yield name + "XX!XX"',
                     "return self.size > LIMIT → return self.size >= LIMIT"):  # fmt: skip
            swap_in("boxes_with_faults", mutants[diff])
        monkey = boxes.Box()
        monkey.size = 3
        with opened("a") as name:
            assert (half(), name, monkey.room) == (8, "aXX!XX", True)

    def test_what_a_process_tells_and_what_never_ends(self):
        import os
        import time

        from tests.mutation.drive import run_forked

        assert run_forked(lambda tell: tell({"failed": "x"}), 60) == {"failed": "x"}
        assert run_forked(lambda tell: 1 / 0, 60) == {"failed": "(ZeroDivisionError('division by zero'))"}
        assert run_forked(lambda tell: os._exit(3), 60) == {"failed": "(the process ended)"}
        assert run_forked(lambda tell: time.sleep(600), 0.05) is None
