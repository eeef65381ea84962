"""Kinds: items declare themselves, names are checked, files from outside join, each once."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from kdbench.errors import BadInput
from kdbench.kinds import PLUGINS, Kind, load_plugins


@dataclass(frozen=True)
class Item:
    name: str


def test_items_are_known_in_the_order_of_their_declaration():
    kind = Kind[Item]("fruit", "--fruit", ())
    pear, apple = kind.add(Item("pear")), kind.add(Item("apple"))
    assert kind.names() == ("pear", "apple")
    assert list(kind) == [pear, apple]
    assert kind["apple"] is apple
    assert "pear" in kind
    assert "plum" not in kind
    with pytest.raises(BadInput, match=r"^--fruit: got 'plum', expected one of pear, apple$"):
        kind["plum"]


def test_a_name_is_declared_once_and_may_be_a_folders():
    kind = Kind[Item]("fruit", "--fruit", ())
    kind.add(Item("pear"))
    with pytest.raises(BadInput, match="fruit 'pear' is declared twice"):
        kind.add(Item("pear"))
    for name in ("", "a/b", "..", "a,b", "a b", "-a", "a+b"):
        with pytest.raises(BadInput, match="expected a name of letters"):
            kind.add(Item(name))


def test_built_in_items_come_first_whoever_is_imported_first(tmp_path, monkeypatch):
    """An item from outside, then the modules in the wrong order: the order is still that of the modules."""
    monkeypatch.syspath_prepend(tmp_path)
    kind = Kind[Item]("fruit", "--fruit", ("first_fruit", "second_fruit"))
    monkeypatch.setitem(sys.modules, "orchard", SimpleNamespace(KIND=kind, Item=Item))
    for module, name in (("first_fruit", "pear"), ("second_fruit", "apple")):
        (tmp_path / f"{module}.py").write_text(f"from orchard import *\nKIND.add(Item('{name}'))\n", encoding="utf-8")
    kind.add(Item("plum"))
    importlib.import_module("second_fruit")
    assert kind.names() == ("pear", "apple", "plum")
    assert [item.name for item in kind] == ["pear", "apple", "plum"]
    with pytest.raises(BadInput, match="expected one of pear, apple, plum$"):
        kind["fig"]


def test_a_file_from_outside_joins_once(tmp_path, monkeypatch):
    count = tmp_path / "count"
    plugin = tmp_path / "outside_fruit.py"
    plugin.write_text(
        f"import pathlib\npath = pathlib.Path({str(count)!r})\n"
        "path.write_text((path.read_text() if path.exists() else '') + 'x')\n",
        encoding="utf-8",
    )
    monkeypatch.setenv(PLUGINS, os.pathsep.join([str(plugin), str(plugin)]))
    load_plugins()
    load_plugins()
    assert count.read_text(encoding="utf-8") == "x"


def test_a_plugin_that_is_missing_or_fails_is_one_line(kdbench, tmp_path, monkeypatch):
    monkeypatch.setenv(PLUGINS, "")
    done = kdbench("--plugin", tmp_path / "none.py", "doctor")
    assert done.code == 2
    assert (
        done.err.strip()
        == f"kdbench: --plugin: '{tmp_path / 'none.py'}' does not exist, expected a Python file that declares something"
    )
    broken = tmp_path / "broken_fruit.py"
    broken.write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.setenv(PLUGINS, "")
    done = kdbench("--plugin", broken, "doctor")
    assert done.code == 2
    assert "fails as it is imported (ZeroDivisionError: division by zero)" in done.err
