"""The arrows: trainers → kdbench ← exporters, never between the two; the command line alone knows all."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGES = ("kdbench", "trainers", "exporters", "benchmarks", "tests")
ALLOWED = {
    "kdbench": {"kdbench"},
    "trainers": {"kdbench", "trainers"},
    "exporters": {"kdbench", "exporters"},
    "benchmarks": {"kdbench", "trainers", "exporters", "benchmarks"},
}


def imports(path: Path) -> set[str]:
    """Top-level names of our own packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found & set(PACKAGES)


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows(package):
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files
    for path in files:
        allowed = ALLOWED[package]
        if path.is_relative_to(REPOSITORY / "kdbench/cli"):
            allowed = allowed | {"trainers", "exporters"}
        assert imports(path) <= allowed, f"{path.name} imports {imports(path) - allowed}"


def test_one_place_opens_onnx_sessions():
    """So that threads, spinning and the log level are set everywhere."""
    files = [path for package in ("kdbench", "exporters", "trainers") for path in (REPOSITORY / package).rglob("*.py")]
    opening = {path.name for path in files if "InferenceSession" in path.read_text(encoding="utf-8")}
    assert opening == {"onnx_runtime.py"}


FLOORS = (
    {"errors", "kinds"},
    {"formats", "methods", "runs", "data", "machine", "progress", "torchvision_compat"},
    {"models", "backends"},
    {"comparison", "predict", "regress", "report", "package"},
    {"cli", "api"},
)
"""Rooms and files of ``kdbench``, from the ground up; each may use its own floor and those below."""


def test_no_arrow_runs_up_a_floor():
    level = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    for path in sorted((REPOSITORY / "kdbench").rglob("*.py")):
        room = path.relative_to(REPOSITORY / "kdbench").parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        used = {module.split(".")[1] for module in modules if module.startswith("kdbench.")} - {"__version__"}
        above = {name for name in used if level[name] > level[room]}
        assert not above, f"{path.relative_to(REPOSITORY)} imports {sorted(above)}"


def test_names_in_a_run_folder_are_spelt_in_one_room():
    names = {
        "student.safetensors",
        "teacher.safetensors",
        "history.jsonl",
        "state.pt",
        ".lock",
        "compare.json",
        "imported.json",
        "data.json",
        "plots",
        "predictions",
    }
    for package in ("kdbench", "trainers", "exporters"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            if path.parent == REPOSITORY / "kdbench/runs":
                continue
            constants = (n.value for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Constant))
            spelt = names & {value for value in constants if isinstance(value, str)}
            assert not spelt, f"{path.relative_to(REPOSITORY)} spells {sorted(spelt)}: ask a RunFolder or the RunTree"


LONGEST_FILE, MOST_PARAMETERS = 350, 6
"""Files whose functions may still have more parameters."""


def test_no_file_is_too_long_to_read():
    files = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
    lines = {str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    long = {file: count for file, count in lines.items() if count > LONGEST_FILE}
    assert not long, f"got {long} lines, expected at most {LONGEST_FILE}: split the file at its steps"


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, method: bool) -> int:
    """How many things a caller may give; a typer command's are flags, which a person names."""
    if any("command(" in ast.unparse(decorator) for decorator in function.decorator_list):
        return 0
    given = function.args
    static = any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list)
    return len([*given.posonlyargs, *given.args, *given.kwonlyargs]) - (method and not static)


def crowded(tree: ast.AST, within_class: bool = False) -> list[str]:
    """Functions below a node that take more than ``MOST_PARAMETERS``."""
    found = []
    for node in ast.iter_child_nodes(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and parameters(node, within_class) > MOST_PARAMETERS:
            found.append(f"{node.name} in line {node.lineno}")
        found += crowded(node, isinstance(node, ast.ClassDef))
    return found


def test_many_parameters_are_an_options_object():
    for package in ALLOWED:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            file = str(path.relative_to(REPOSITORY))
            found = crowded(ast.parse(path.read_text(encoding="utf-8")))
            assert not found, f"{file}: {found} take more than {MOST_PARAMETERS}: give them an options object"


def test_what_counts_as_a_parameter():
    def found(source: str) -> list[str]:
        return crowded(ast.parse(source))

    assert found("def f(a, b, c, d, e, /, f, *, g): ...") == ["f in line 1"]
    assert found("def f(a, b, c, d, e, *more, f, **others): ...") == []
    assert found("class A:\n  def f(self, a, b, c, d, e, f): ...") == []
    assert found("class A:\n  @staticmethod\n  def f(a, b, c, d, e, f, g): ...") == ["f in line 3"]
    assert found("@app.command()\ndef f(a, b, c, d, e, f, g): ...") == []
    assert found("def f():\n  def g(a, b, c, d, e, f, g): ...") == ["g in line 2"]


@pytest.mark.parametrize(
    "statement",
    ["import kdbench", "import kdbench.cli", "import kdbench.errors, kdbench.runs.tree, kdbench.runs.files"],
)
def test_heavy_packages_are_not_imported_at_start(statement):
    heavy = (
        "torch", "torchvision", "numpy", "onnx", "onnxruntime", "tensorrt", "pydantic", "scipy", "PIL", "matplotlib",
        "cv2",
    )  # fmt: skip
    code = f"{statement}; import sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
