"""Both sides of a comparison of two revisions: each exports the same checkpoints with its own code."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from kdbench.backends import BACKENDS
from kdbench.errors import BadInput, Missing
from kdbench.machine.ending import module_command
from kdbench.machine.scratch import ScratchFolder
from kdbench.methods.base import student_methods
from kdbench.regress.artifact import CHECKOUT, Artifact, Filter, find_artifacts
from kdbench.runs.tree import RunTree, sidecar_path


@contextmanager
def both_sides(
    base_ref: str, tree: RunTree, wanted: Filter, size: str | None
) -> Iterator[tuple[list[Artifact], list[Artifact]]]:
    """Artifacts of ``base_ref`` and of the working tree, each bound to its own source tree.

    Args:
        base_ref: anything that git resolves to a commit: origin/main, HEAD~1.
        tree: where the checkpoints lie, which both sides export.
        size: HEIGHTxWIDTH of the exports; None = that of training.
        wanted: methods (default: all that are trained), backends (default: onnx), precisions (default: fp32).

    Raises:
        BadInput: this kdbench runs from no git checkout, there is no such revision, or one side cannot export.
        Missing: no checkpoint.
    """
    methods = [m for m in wanted.methods or student_methods() if tree.checkpoint(m).exists()]
    lacking = [m for m in wanted.methods if m not in methods]
    if lacking or not methods:
        raise Missing(
            f"no checkpoint '{tree.checkpoint((lacking or ['baseline'])[0])}' for --base-ref to export: make it with "
            f"`kdbench train --method {(lacking or ['baseline'])[0]} --dataset {tree.dataset}`"
        )
    wanted = replace(wanted, methods=tuple(methods))
    with ScratchFolder("base") as folder, _worktree(base_ref, Path(folder)) as base:
        yield (
            _side(base, Path(folder) / "baseline-runs", tree, wanted, size, base_ref),
            _side(CHECKOUT, Path(folder) / "candidate-runs", tree, wanted, size, "the working tree"),
        )


@contextmanager
def _worktree(base_ref: str, folder: Path) -> Iterator[Path]:
    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True)

    if git("rev-parse", "--show-toplevel").stdout.strip() != str(CHECKOUT):
        raise BadInput(
            "--base-ref: this kdbench does not run from a git checkout of its own, expected one to find the revision "
            "in: clone it and install with `pip install -e .`, or give --baseline and --candidate"
        )
    found = git("rev-parse", "--verify", "--quiet", f"{base_ref}^{{commit}}")
    if found.returncode != 0:
        raise BadInput(
            f"--base-ref: got '{base_ref}', which is no revision here, expected one such as origin/main: fetch it "
            "(`git fetch origin`, and in CI the whole history)"
        )
    git("worktree", "prune")  # what a killed one left is gone from its folder alone
    place = folder / "base"
    added = git("worktree", "add", "--detach", "--force", str(place), found.stdout.strip())
    if added.returncode != 0:
        raise BadInput(f"--base-ref: git cannot check '{base_ref}' out ({added.stderr.strip().splitlines()[-1]})")
    try:
        yield place
    finally:
        git("worktree", "remove", "--force", str(place))


def _side(checkout: Path, runs: Path, tree: RunTree, wanted: Filter, size: str | None, shown: str) -> list[Artifact]:
    """Copy the checkpoints, export them with the checkout's code, and list what can be timed."""
    ours = RunTree(runs, tree.dataset)
    for method in wanted.methods:
        ours.method_dir(method).mkdir(parents=True)
        for file in (tree.checkpoint(method), sidecar_path(tree.checkpoint(method))):
            shutil.copy(file, ours.method_dir(method))
    backends, precisions = wanted.backends or ("onnx",), wanted.precisions or ("fp32",)
    formats = list(dict.fromkeys(known for backend in backends if (known := BACKENDS[backend].loads)))
    if formats:
        for output in wanted.outputs or ("mask",):
            command = [
                *module_command("kdbench"), "export", "--runs", str(runs), "--dataset", tree.dataset,
                "--method", ",".join(wanted.methods), "--format", ",".join(formats),
                "--precision", ",".join(precisions), "--output", output, *(["--size", size] if size else []),
            ]  # fmt: skip
            environment = {**os.environ, "PYTHONPATH": str(checkout)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
                raise BadInput(
                    f"--base-ref: {shown} cannot export ({lines[-1]}): never a pass; mend it, or train again"
                )
    found = find_artifacts(ours.root, replace(wanted, backends=backends, precisions=precisions))
    return [
        replace(artifact, checkout=checkout, shown=f"{shown}: {artifact.path.relative_to(ours.root).as_posix()}")
        for artifact in found
    ]
