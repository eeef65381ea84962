"""Name the results whose sources changed since they were measured: figures of a code that is no more.

    python -m benchmarks.stale_results            # a line for each, as in `make check`
    python -m benchmarks.stale_results --strict   # the same, and exit code 1 if there is any

Comments, docstrings and the form of Python code change no figure and count as no change. Results grow stale honestly,
so this reports and fails nothing by itself; ``benchmarks.remeasure`` measures again. Without the history (a shallow
clone, a tarball) nothing can be told, which is one line.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.runs.files import read_json

REPOSITORY = Path(__file__).resolve().parent.parent
SHOWN = 3
"""Changed files that a line names."""

STUDENT = ("kdbench/models/student.py", "kdbench/models/segmentation.py", "kdbench/models/layers.py")
"""Paths and globs, as git reads them."""
NETWORKS = ("kdbench/models/*.py",)
EXPORT = ("exporters/to_onnx.py", "exporters/wrap.py", "exporters/graph.py", "kdbench/models/deployed.py")
ENGINES = ("kdbench/backends/onnx_runtime.py", "kdbench/backends/openvino_runtime.py", "kdbench/backends/torch_*.py")
PRECISIONS = (
    "exporters/quantise.py",
    "exporters/image_bytes.py",
    "exporters/half*.py",
    "exporters/to_openvino.py",
    "exporters/to_tensorrt.py",
)
BATCHES = ("trainers/batches.py", "trainers/augmentation.py", "trainers/images.py", "trainers/step_images.py")
STEPS = ("trainers/arm.py", "trainers/loop.py", "trainers/losses.py", "trainers/steps.py", "trainers/precision.py")
LOSSES = ("kdbench/methods/*.py", "trainers/losses.py", "trainers/adapters.py")
SCORES = ("kdbench/comparison/evaluate.py", "kdbench/comparison/metrics.py", "kdbench/data/preprocessing.py")
TIMING = ("kdbench/comparison/latency.py", "benchmarks/latency_suite.py", "benchmarks/test_latency.py")
GATE = tuple(f"kdbench/regress/{name}.py" for name in ("blocks", "rule", "signed_rank", "worker", "gate"))
GPU = ("benchmarks/gpu_latency.py", "benchmarks/gpu_ways.py", "benchmarks/gpu_engine.py", "benchmarks/gpu_timing.py")
WRITING = ("kdbench/runs/files.py", "kdbench/runs/beside.py", "trainers/state_file.py", "exporters/proven_export.py")
ENDING = tuple(f"kdbench/machine/{name}.py" for name in ("ending", "guard", "scratch"))
MUTATED = (
    *("trainers/losses.py", "trainers/methods.py", "kdbench/models/pixels.py", "kdbench/methods/base.py"),
    *(f"kdbench/comparison/{name}.py" for name in ("metrics", "seed_statistics", "evaluate", "parity")),
    *("kdbench/regress/rule.py", "kdbench/regress/signed_rank.py", "kdbench/runs/files.py"),
)
LABEL_STUDY = (*STUDENT, *BATCHES, *STEPS, *LOSSES, "trainers/teacher.py")
CAMVID = ("trainers/recipes/camvid.toml", "kdbench/data/camvid.py")


@dataclass(frozen=True)
class Measured:
    """What figures depend on.

    Attributes:
        sources: paths and globs; since ``at``, or since the revision that the file names.
        training: the same, since the first revision of the trainings that a comparison names.
        at: where results/README.md says that the tree was another one than the file's own revision.
    """

    sources: tuple[str, ...]
    training: tuple[str, ...] = ()
    at: str | None = None


COMPARISON = Measured((*STUDENT, *EXPORT, *ENGINES, *SCORES, *TIMING), (*STUDENT, *BATCHES, *STEPS, *LOSSES, *CAMVID))
RESULTS = {
    "backend-speedup.json": Measured((*STUDENT, *EXPORT, *ENGINES, *PRECISIONS, "benchmarks/backend_speedup.py")),
    "batches.json": Measured((*COMPARISON.sources, *PRECISIONS, "kdbench/comparison/timed_rows.py")),
    "camvid-180x240.json": COMPARISON,
    "camvid-quarter.json": Measured((*COMPARISON.sources, *PRECISIONS), COMPARISON.training),
    "coverage.json": Measured(("kdbench/**/*.py", "trainers/*.py", "exporters/*.py", "tests/*.py")),
    "demo.json": Measured(
        ("kdbench/cli/demo.py", "trainers/recipes/materials.toml", "kdbench/data/materials.py", *BATCHES, *STEPS)
    ),
    "evaluate-overlap.json": Measured((*SCORES, "benchmarks/evaluate_overlap.py")),
    "evaluate-overlap-camvid.json": Measured((*SCORES, "benchmarks/evaluate_overlap.py")),
    "foreign-networks.json": Measured(("kdbench/models/foreign.py", *EXPORT, *PRECISIONS, "exporters/resizes.py")),
    "gate-study.json": Measured(GATE),
    "graph-size.json": Measured((*STUDENT, *EXPORT, "benchmarks/graph_size.py")),
    "fuzz.json": Measured(("tests/fuzz", "kdbench")),
    "import-overhead.json": Measured(
        ("kdbench/backends/onnx_file.py", "kdbench/backends/onnx_layout.py", *ENGINES, "benchmarks/import_overhead.py")
    ),
    "imported-files.json": Measured(
        ("exporters/import_file.py", "exporters/imported.py", *PRECISIONS, "benchmarks/import_strangers.py")
    ),
    "int8-processors.json": Measured(
        ("exporters/quantise.py", "exporters/image_bytes.py", "benchmarks/int8_processors.py")
    ),
    "kills.json": Measured(("tests/fuzz/kills.py", *WRITING, *ENDING, *STEPS, "trainers/sweep.py")),
    "label-study.json": Measured(LABEL_STUDY, at="201fe81"),
    "label-study-cpu.json": Measured(LABEL_STUDY, at="b055ee2"),
    "licences.json": Measured(("pyproject.toml", "constraints.txt", "benchmarks/licences.py")),
    "mutation.json": Measured(("tests/mutation", *MUTATED)),
    "report-page.json": Measured(("kdbench/report/*",)),
    "soak.json": Measured(
        ("tests/soak.py", "kdbench/comparison", "kdbench/regress", "kdbench/report", "exporters/*.py", *BATCHES, *STEPS)
    ),
    "startup-time.json": Measured(("kdbench/__init__.py", "kdbench/__main__.py", "kdbench/cli/*.py")),
    "streaming-speed.json": Measured((*BATCHES, "kdbench/data/remembered.py", "kdbench/data/faults.py")),
    "student-accuracy.json": Measured((*STUDENT, *BATCHES, *STEPS, *CAMVID)),
    "student-latency.json": Measured((*STUDENT, *EXPORT, *ENGINES, "benchmarks/student_latency.py")),
    "student-front.json": Measured(
        (
            "kdbench/models/student*.py",
            "kdbench/models/efficientnet_lite.py",
            *STUDENT,
            *EXPORT,
            *ENGINES,
            *PRECISIONS,
            "benchmarks/student_front.py",
        )
    ),
    "thread-settings.json": Measured(
        (
            *("kdbench/machine/cores.py", "kdbench/machine/control_groups.py", *SCORES, *ENGINES),
            *("benchmarks/thread_settings.py", "benchmarks/situations.py"),
        )
    ),
    "training-speed.json": Measured((*STUDENT, *BATCHES, *STEPS, *CAMVID, "benchmarks/training_speed.py")),
    "gpu/latency.json": Measured((*STUDENT, *EXPORT, *GPU), at="b81ab64"),
    "gpu/latency-compiled.json": Measured((*STUDENT, *GPU, "benchmarks/gpu_compile.py"), at="201fe81"),
    "gpu/machine.json": Measured(("benchmarks/gpu_quick.py",), at="b81ab64"),
    "gpu/training.json": Measured((*STUDENT, *BATCHES, *STEPS, "benchmarks/gpu_training.py"), at="b81ab64"),
    "gpu/training-overlapped.json": Measured((*STUDENT, *BATCHES, *STEPS, "benchmarks/gpu_training.py"), at="201fe81"),
}
"""File below results/ → what it depends on."""
OF_THE_PAST = {"camvid-180x240-unadjusted.json", "logit-adjustment.json", "revision-speed.json"}
"""Of code that was changed because of them: they say what a change brought, and cannot grow stale."""


class NoHistoryError(Exception):
    """Why nothing can be told here."""


def git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=60)
    except OSError as error:
        raise NoHistoryError("git is not installed") from error
    return done.stdout.strip() if done.returncode == 0 else None


def require_history(root: Path) -> None:
    top = git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        raise NoHistoryError("this folder is no git checkout")
    if git(root, "rev-parse", "--is-shallow-repository") == "true":
        raise NoHistoryError("this checkout is shallow (`git fetch --unshallow` gets the rest)")


def revisions_of(document: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Where a results file was measured, and where what it measures was trained."""
    about = document.get("environment") or document.get("start", {}).get("environment") or {}
    training = document.get("training", {})
    trained = [entry.get("revision") for entry in training.values()] if isinstance(training, dict) else []
    return about.get("git", {}).get("revision"), [revision for revision in trained if revision]


def changed(root: Path, revision: str | None, sources: Iterable[str]) -> list[str]:
    """Files that are not as they were; a revision that git does not know is named in their place."""
    if revision is None or git(root, "cat-file", "-e", f"{revision}^{{commit}}") is None:
        return [f"(unknown revision {revision})"]
    names = git(root, "diff", "--name-only", revision, "--", *(f":(glob){path}" for path in sources))
    return [name for name in (names or "").splitlines() if not is_same_code(root, revision, name)]


def is_same_code(root: Path, revision: str, name: str) -> bool:
    """Whether a Python file differs from the one at ``revision`` in comments, docstrings and form alone."""
    before = git(root, "show", f"{revision}:{name}") if name.endswith(".py") else None
    if before is None or not (root / name).exists():
        return False
    try:
        return code_of(before) == code_of((root / name).read_text(encoding="utf-8"))
    except SyntaxError:
        return False


def code_of(text: str) -> str:
    """The syntax tree without texts that stand alone: docstrings of modules, classes, functions and fields."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [line for line in body if not is_text(line)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def stale(root: Path, results: dict[str, Measured]) -> dict[str, str]:
    """Results files below ``root`` whose sources changed → since when, and which.

    Raises:
        NoHistoryError: git cannot tell here.
    """
    require_history(root)
    found = {}
    for name, measured in results.items():
        file = root / "results" / name
        if not file.exists():
            continue
        own, trained = revisions_of(read_json(file, "the command in results/README.md"))
        revision = measured.at or own
        files = changed(root, revision, measured.sources)
        if measured.training:
            files += [path for at in dict.fromkeys(trained) for path in changed(root, at, measured.training)]
        files = list(dict.fromkeys(files))
        if files:
            more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
            found[name] = f"since {(revision or '?')[:12]}: {', '.join(files[:SHOWN])}{more}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a result is stale")
    strict = parser.parse_args().strict
    try:
        found = stale(REPOSITORY, RESULTS)
    except NoHistoryError as why:
        print(f"which results are stale cannot be told: {why}")
        return
    for name, told in found.items():
        print(f"results/{name}: {told}")
    print(
        f"{len(found)} of {len(RESULTS)} results are of sources that changed since: `make remeasure`, or the commands "
        "in results/README.md"
        if found
        else f"all {len(RESULTS)} results are of the present sources"
    )
    if strict and found:
        sys.exit(1)


if __name__ == "__main__":
    main()
