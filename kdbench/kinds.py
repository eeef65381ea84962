"""What comes in kinds: methods, backends, formats, dataset layouts, architectures.

Each item declares itself in a file of its own, beside its code, and everybody else asks its ``Kind`` for it: commands
and their completion, tables, plots, errors. Files from outside the package join in the same way:

    kdbench --plugin my_method.py train --method mse         # or KDBENCH_PLUGINS=my_method.py in the environment

or as entry points of the group ``kdbench.plugins`` of an installed package. A plugin is Python that is run, so it is
only ever named by the person at the keyboard, never by a file that kdbench reads.

Files of declarations are imported to complete a name on the command line: they import nothing heavy at their top.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from kdbench.errors import BadInput

PLUGINS = "KDBENCH_PLUGINS"
"""Environment variable: files, separated as in PATH; processes that a command starts inherit it."""


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Kind(Generic[T]):
    """The items of one kind: built-in ones in the order of their modules, then others as they were declared.

    Args:
        noun: for errors, as "method".
        flag: the command line's, as "--method".
        modules: that declare the built-in items when they are imported.
        also: what else the flag takes, for errors.
    """

    def __init__(self, noun: str, flag: str, modules: tuple[str, ...], also: str = "") -> None:
        self.noun, self.flag, self.also = noun, flag, also
        self._modules, self._items, self._loaded = modules, dict[str, T](), False
        self._module_of: dict[str, str] = {}

    def add(self, item: T) -> T:
        """Declare an item.

        Raises:
            BadInput: the name is taken, or could not be a folder's.
        """
        if item.name in self._items:
            raise BadInput(f"{self.noun} '{item.name}' is declared twice: give the second another name")
        if not item.name or set(item.name) & set("/\\., +") or item.name.startswith("-"):
            raise BadInput(f"{self.noun} '{item.name}': expected a name of letters, digits, '-' and '_'")
        self._items[item.name] = item
        self._module_of[item.name] = sys._getframe(1).f_globals.get("__name__", "")
        return item

    def replace(self, item: T) -> T:
        """Declare an item in the place of the one of that name, where there is one."""
        self._items.pop(item.name, None)
        return self.add(item)

    def names(self) -> tuple[str, ...]:
        self._load()
        return tuple(self._sorted())

    def __getitem__(self, name: str) -> T:
        """The item of that name.

        Raises:
            BadInput: there is none; the message lists those that there are.
        """
        self._load()
        if name not in self._items:
            known = ", ".join(self._sorted()) + (f", or {self.also}" if self.also else "")
            raise BadInput(f"{self.flag}: got '{name:.80}', expected one of {known}")
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._items

    def __iter__(self) -> Iterator[T]:
        self._load()
        return iter([self._items[name] for name in self._sorted()])

    def _sorted(self) -> list[str]:
        """Names in an order that does not depend on which module was imported first, and by whom."""
        rank = {module: number for number, module in enumerate(self._modules)}
        return sorted(self._items, key=lambda name: rank.get(self._module_of.get(name, ""), len(rank)))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for module in self._modules:
            importlib.import_module(module)
        load_plugins()


def load_plugins() -> None:
    """Import the files that the environment names, and what installed packages offer; each once.

    Raises:
        BadInput: a file is missing, or fails as it is imported.
    """
    for text in filter(None, os.environ.get(PLUGINS, "").split(os.pathsep)):
        import_file(Path(text))
    for entry in importlib.metadata.entry_points(group="kdbench.plugins"):
        entry.load()


def import_file(path: Path) -> None:
    """Import a Python file under a name of its own."""
    name = f"kdbench_plugin_{path.stem}"
    if name in sys.modules:
        return
    if not path.is_file():
        raise BadInput(f"--plugin: '{path}' does not exist, expected a Python file that declares something")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"--plugin: '{path}' fails as it is imported ({type(error).__name__}: {error})") from error
