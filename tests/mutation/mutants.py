"""All mutants of a module: its text with one small fault each.

The operators are those of mutmut 3. Its runner is not used: that one leaves out every decorated function (context
managers, properties, caches) and every constant of a module, which is half of what matters here.

A string is changed in one way only, by letters put around it; other spellings would be the same fault again. Left out
are annotations, type aliases, decorators, docstrings and calls of ``len`` and ``isinstance``.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import libcst as cst
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

TYPES = m.Subscript(value=m.Name("Literal") | m.Name("Callable"))
LEFT_OUT = (
    m.Annotation()
    | m.Decorator()
    | m.Import()
    | m.ImportFrom()
    | m.Call(func=m.Name("len") | m.Name("isinstance"))
    | m.Assign(value=m.Call(func=m.Name("TypeVar")) | TYPES)
    | m.AnnAssign(value=TYPES)
)


@dataclass(frozen=True)
class Mutant:
    """A module with one fault.

    Attributes:
        function: that the fault is in, with its class; "" for the module's own lines.
        swap: the outermost function whose body has the fault, as "name" or "Class.name"; "" where the fault acts when
            the module is imported, so that it has to be imported anew.
        line: where the fault begins.
        diff: "old lines → new lines", white space at their ends aside.
        code: the whole text.
    """

    function: str
    swap: str
    line: int
    diff: str
    code: str

    @property
    def key(self) -> str:
        return hashlib.sha256(self.code.encode()).hexdigest()[:24]


class _Faults(cst.CSTVisitor):
    """Collects (function, swap, line, node, what replaces it)."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, int, cst.CSTNode, cst.CSTNode]] = []
        self._inside: list[str] = []
        self._body: cst.CSTNode | None = None
        self._swap = ""

    def on_visit(self, node: cst.CSTNode) -> bool:
        if m.matches(node, LEFT_OUT):
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._inside.append(node.name.value)
            if isinstance(node, cst.FunctionDef) and self._body is None:
                self._body = node.body
        if node is self._body:
            self._swap = ".".join(self._inside)
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                faults = islice(operator(node), 1) if isinstance(node, cst.BaseString) else operator(node)
                # Operators such as ``<`` have no position of their own; the nodes around them, which mutmut swaps, do.
                line = self.get_metadata(PositionProvider, node).start.line
                self.found += [(".".join(self._inside), self._swap, line, node, fault) for fault in faults]
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if original_node is self._body:
            self._body, self._swap = None, ""
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._inside.pop()


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every mutant that Python can compile and that is not the same program as another."""
    sound = path.read_text(encoding="utf-8")
    wrapper = MetadataWrapper(cst.parse_module(sound))
    faults = _Faults()
    wrapper.visit(faults)
    known = {ast.dump(ast.parse(sound))}
    for function, swap, line, node, fault in faults.found:
        changed = wrapper.module.deep_replace(node, fault)
        assert isinstance(changed, cst.Module)
        code = changed.code
        try:
            compile(code, str(path), "exec")
        except SyntaxError:
            continue
        program = ast.dump(ast.parse(code))
        if program in known:
            continue
        known.add(program)
        yield Mutant(function, swap, line, _diff(sound, code), code)


def _diff(before: str, after: str) -> str:
    """The lines between those that both begin with and those that both end with."""
    old, new = before.splitlines(), after.splitlines()
    while old and new and old[0] == new[0]:
        del old[0], new[0]
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    return " → ".join(" ".join(line.strip() for line in lines) for lines in (old, new))
