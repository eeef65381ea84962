"""``kdbench regress``."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.cli.app import app
from kdbench.cli.options import Dataset, Device, Runs, check_writable, choose, choose_device
from kdbench.errors import BadInput, KdbenchError
from kdbench.methods.base import student_methods
from kdbench.runs.tree import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    from kdbench.regress.artifact import Filter
    from kdbench.regress.record import Recording
    from kdbench.regress.rule import Rule


@app.command()
def regress(
    baseline: Annotated[Path | None, typer.Option(help="An .onnx file, export, checkpoint, or folder of them.")] = None,
    candidate: Annotated[Path | None, typer.Option(help="As --baseline: what may have become slower.")] = None,
    base_ref: Annotated[
        str | None, typer.Option(help="Instead: a revision whose code exports and runs the trained models too.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", help="The recording: a file, or - for stdout. Default: regress.json.")
    ] = None,
    replay: Annotated[Path | None, typer.Option(help="Judge a recording again; measures nothing.")] = None,
    budget: Annotated[float, typer.Option(help="Seconds for each pair of artifacts, at most.", min=10)] = 240,
    margin: Annotated[float, typer.Option(help="Percent slower that is no regression.", min=0, max=50)] = 1.0,
    tolerance: Annotated[float, typer.Option(help="Percent slower that is no pass.", min=0, max=100)] = 3.0,
    method: Annotated[str, typer.Option(help="Of a folder's artifacts: these methods.")] = "all",
    backend: Annotated[str, typer.Option(help="Of a folder's artifacts: these backends.")] = "all",
    precision: Annotated[str, typer.Option(help="Of a folder's artifacts: these precisions.")] = "all",
    output: Annotated[str, typer.Option(help="Of a folder's artifacts: mask, logits or all.")] = "all",
    images: Annotated[
        list[Path] | None, typer.Option(help="Images or folders of them to feed. Default: generated scenes.")
    ] = None,
    allow_different_outputs: Annotated[
        bool, typer.Option("--allow-different-outputs", help="Time sides that compute different things.")
    ] = False,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads inside an engine; 0 = one per core.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of the orders and noise inputs.", min=0)] = 0,
    size: Annotated[str | None, typer.Option(help="--base-ref: HEIGHTxWIDTH of the exports.")] = None,
    runs: Runs = Path("runs"),
    dataset: Dataset = None,
) -> None:
    """Tell whether a candidate is slower than a baseline: both are measured side by side, in this run.

    Exit code 0 pass, 1 regression, 3 inconclusive, 2 bad input. Writes the recording (JSON), a summary (.md) and a
    picture of the paired ratios (.png).

    Examples:
      kdbench regress --baseline old.onnx --candidate new.onnx
      kdbench regress --baseline main/runs --candidate runs --backend onnx --json gate.json
      kdbench regress --base-ref origin/main --method baseline
      kdbench regress --replay gate.json
    """
    from kdbench.regress.artifact import OUTPUTS, Filter
    from kdbench.regress.rule import Rule

    try:
        code = _regress(
            baseline, candidate, json_file, replay, images, base_ref=base_ref, runs=runs, dataset=dataset, size=size,
            budget=budget, rule=Rule(margin=margin / 100, tolerance=tolerance / 100),
            chosen=Filter(
                methods=() if method == "all" else choose("--method", method, student_methods()),
                backends=() if backend == "all" else choose("--backend", backend, BACKENDS),
                precisions=() if precision == "all" else choose("--precision", precision, PRECISIONS),
                outputs=() if output == "all" else choose("--output", output, OUTPUTS),
            ),
            allow_different_outputs=allow_different_outputs, device=device, threads=threads, seed=seed,
        )  # fmt: skip
    except KdbenchError as error:
        raise BadInput(str(error)) from error  # exit code 1 is a regression's alone
    except Exception:  # a bug keeps its traceback, and is no regression either
        traceback.print_exc()
        code = BadInput.exit_code
    raise typer.Exit(code)


def _regress(
    baseline: Path | None,
    candidate: Path | None,
    json_file: str | None,
    replay: Path | None,
    images: list[Path] | None,
    *,
    base_ref: str | None,
    runs: Path,
    dataset: str | None,
    size: str | None,
    budget: float,
    rule: Rule,
    chosen: Filter,
    allow_different_outputs: bool,
    device: str,
    threads: int,
    seed: int,
) -> int:
    """The exit code."""
    from contextlib import ExitStack

    from kdbench.data.preprocessing import parse_size
    from kdbench.predict.images import find_images
    from kdbench.regress.artifact import find_artifacts, pair
    from kdbench.regress.base_ref import both_sides
    from kdbench.regress.blocks import Settings
    from kdbench.regress.gate import run_gate
    from kdbench.regress.record import Recording
    from kdbench.regress.rule import EXIT_CODES
    from kdbench.runs.tree import RunTree

    if replay is not None:
        if baseline or candidate or base_ref:
            raise BadInput("--replay: got artifacts to measure beside it, expected it alone")
        return _show_replay(Recording.read(replay), json_file)
    if (baseline is None or candidate is None) == (base_ref is None) or (base_ref and (baseline or candidate)):
        raise BadInput("kdbench regress: expected --baseline and --candidate, or --base-ref alone, or --replay alone")
    if size is not None:
        if base_ref is None:
            raise BadInput("--size: got it without --base-ref, expected only there: artifacts have a size of their own")
        parse_size(size)
    if rule.tolerance <= rule.margin:
        raise BadInput(
            f"--tolerance: got {100 * rule.tolerance:g}%, expected more than --margin, {100 * rule.margin:g}%"
        )
    files, problems = find_images(images or [])
    if problems:
        raise BadInput(f"--images: {problems[0]}")
    to_stdout = json_file == "-"
    destination = Path("regress.json" if json_file in (None, "-") else str(json_file))
    if destination.suffix != ".json":
        raise BadInput(f"--json: got '{destination}', expected a file that ends in .json, or -")
    if not to_stdout:
        check_writable(destination, ".md", ".png")
    most = max(256, os.cpu_count() or 1)
    if threads > most:
        raise BadInput(f"--threads: got {threads}, expected at most {most}: leave it out for one per core")
    settings = Settings(
        threads=threads or os.cpu_count() or 1, device=choose_device(device), budget_s=budget, seed=seed, rule=rule
    )
    latest: list[Recording] = []

    def keep(recording: Recording) -> None:
        latest[:] = [recording]
        if not to_stdout:
            recording.write(destination)

    with ExitStack() as stack:
        if base_ref is not None:
            sides = stack.enter_context(both_sides(base_ref, RunTree.find(runs, dataset), chosen, size))
            shown = (base_ref, "the working tree")
        else:
            assert baseline is not None
            assert candidate is not None
            sides = (find_artifacts(baseline, chosen), find_artifacts(candidate, chosen))
            shown = (baseline.as_posix(), candidate.as_posix())
        pairs = pair(*sides, shown)
        try:
            run_gate(pairs, settings, images=files, allow_different_outputs=allow_different_outputs, keep=keep)
        except KeyboardInterrupt:
            if not latest:
                raise
            print("interrupted: what was measured so far is kept", file=sys.stderr)
    recording = latest[0]
    _present(recording, None if to_stdout else destination)
    if any(cell.interrupted for cell in recording.cells):
        return 130
    return EXIT_CODES[recording.verdict()[0]]


def _present(recording: Recording, destination: Path | None) -> None:
    """Print the summary, and write it and the picture beside the JSON; or, without a destination, print the JSON."""
    import json

    from kdbench.regress.summary import as_markdown, draw
    from kdbench.runs.files import write_text

    summary = as_markdown(recording)
    if destination is None:
        print(summary, file=sys.stderr)
        print(json.dumps(recording.document(), allow_nan=False))
        return
    print(summary)
    write_text(destination.with_suffix(".md"), summary)
    draw(recording, destination.with_suffix(".png"))
    print(f"written: {destination} (.md, .png beside it)")


def _show_replay(recording: Recording, json_file: str | None) -> int:
    """The exit code: the verdict's, but numbers of another machine are never a pass."""
    from kdbench.machine.environment import hardware
    from kdbench.regress.rule import EXIT_CODES

    _present(recording, None if json_file in (None, "-") else Path(str(json_file)))
    verdict, _ = recording.verdict()
    if verdict == "pass" and recording.environment["hardware"] != hardware():
        print("recorded on another machine: no pass here", file=sys.stderr)
        return EXIT_CODES["inconclusive"]
    return EXIT_CODES[verdict]
