"""``kdbench regress``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.backends import BACKENDS
from kdbench.cli.app import app
from kdbench.cli.options import Dataset, Device, Runs, Variant, check_writable, choose, choose_device
from kdbench.errors import BadInput, KdbenchError
from kdbench.formats import PRECISIONS
from kdbench.machine.cores import require_bearable, usable_cores
from kdbench.methods.base import student_methods
from kdbench.runs.tree import RunTree, imports_below

if TYPE_CHECKING:
    from kdbench.regress.artifact import Artifact, Filter
    from kdbench.regress.record import Recording
    from kdbench.regress.rule import Rule


@app.command(rebuilds=True)
def regress(
    baseline: Annotated[Path | None, typer.Option(help="An .onnx file, export, checkpoint, or folder of them.")] = None,
    candidate: Annotated[Path | None, typer.Option(help="As --baseline: what may have become slower.")] = None,
    base_ref: Annotated[
        str | None, typer.Option(help="Instead: a revision whose code exports and runs the trained models too.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", help="The recording: a file, or - for stdout. Default: regress.json.")
    ] = None,
    replay: Annotated[Path | None, typer.Option(help="Judge a recording again, by its rule; measures nothing.")] = None,
    budget: Annotated[float, typer.Option(help="Seconds for each pair of artifacts, at most.", min=10)] = 240,
    margin: Annotated[
        float | None, typer.Option(help="Percent slower that is no regression.", min=0, max=50, show_default="1.0")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Percent slower that is no pass.", min=0, max=100, show_default="3.0")
    ] = None,
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
    size: Annotated[
        str | None,
        typer.Option(help="HEIGHTxWIDTH: of the exports of --base-ref, or of .onnx files that leave it open."),
    ] = None,
    runs: Runs = Path("runs"),
    variant: Variant = None,
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

    folders = [path for path in (baseline, candidate) if path is not None and path.is_dir()]
    imported = dict.fromkeys(name for folder in folders for name in imports_below(folder))
    try:
        limits = {"margin": margin, "tolerance": tolerance}
        named = {name: percent / 100 for name, percent in limits.items() if percent is not None}
        if replay is not None and named:
            raise BadInput(
                f"--{next(iter(named))}: got it beside --replay, expected it when measuring: the recording's own rule "
                "decided when to stop, and judges it again"
            )
        rule = Rule(named.get("margin", Rule.margin), named.get("tolerance", Rule.tolerance))
        options = RegressOptions(
            baseline=baseline, candidate=candidate, base_ref=base_ref, json_file=json_file, replay=replay,
            images=tuple(images or ()), budget=budget, rule=rule,
            chosen=Filter(
                methods=() if method == "all" else choose("--method", method, (*student_methods(), *imported)),
                backends=() if backend == "all" else choose("--backend", backend, BACKENDS.names()),
                precisions=() if precision == "all" else choose("--precision", precision, PRECISIONS),
                outputs=() if output == "all" else choose("--output", output, OUTPUTS),
            ),
            allow_different_outputs=allow_different_outputs, device=device, threads=threads, seed=seed, size=size,
            runs=runs, dataset=dataset, variant=variant,
        )  # fmt: skip
        code = _regress(options)
    except KdbenchError as error:
        raise BadInput(str(error)) from error  # exit code 1 is a regression's alone
    except Exception:  # a bug keeps its traceback, and is no regression either
        traceback.print_exc()
        code = BadInput.exit_code
    raise typer.Exit(code)


@dataclass(frozen=True)
class RegressOptions:
    """What to hold against each other and how; see ``kdbench regress --help``.

    Attributes:
        chosen: which of a folder's artifacts.
        threads: 0 = one per core.
    """

    baseline: Path | None
    candidate: Path | None
    base_ref: str | None
    json_file: str | None
    replay: Path | None
    images: tuple[Path, ...]
    budget: float
    rule: Rule
    chosen: Filter
    allow_different_outputs: bool
    device: str
    threads: int
    seed: int
    size: str | None
    runs: Path
    variant: str | None
    dataset: str | None


def _regress(options: RegressOptions) -> int:
    """The exit code."""
    from kdbench.predict.images import find_images
    from kdbench.regress.blocks import Settings
    from kdbench.regress.gate import run_gate
    from kdbench.regress.record import Recording
    from kdbench.regress.rule import EXIT_CODES

    if options.replay is not None:
        if options.baseline or options.candidate or options.base_ref:
            raise BadInput("--replay: got artifacts to measure beside it, expected it alone")
        return _show_replay(Recording.read(options.replay), options.json_file)
    _require_sides(options)
    rule = options.rule
    if rule.tolerance <= rule.margin:
        raise BadInput(
            f"--tolerance: got {100 * rule.tolerance:g}%, expected more than --margin, {100 * rule.margin:g}%"
        )
    files, problems = find_images(list(options.images))
    if problems:
        raise BadInput(f"--images: {problems[0]}")
    destination = _destination(options.json_file)
    require_bearable(options.threads)
    settings = Settings(
        threads=options.threads or usable_cores(), device=choose_device(options.device),
        budget_s=options.budget, seed=options.seed, rule=rule,
    )  # fmt: skip
    latest: list[Recording] = []

    def keep(recording: Recording) -> None:
        latest[:] = [recording]
        if destination is not None:
            recording.write(destination)

    def say(warning: str) -> None:
        print(warning, file=sys.stderr, flush=True)

    with _pairs(options) as pairs:
        try:
            run_gate(
                pairs, settings, images=files, allow_different_outputs=options.allow_different_outputs, keep=keep,
                say=say,
            )  # fmt: skip
        except KeyboardInterrupt:
            if not latest:
                raise
            print("interrupted: what was measured so far is kept", file=sys.stderr)
    recording = latest[0]
    for note in dict.fromkeys(note for pair in pairs for artifact in pair for note in artifact.notes):
        print(f"note: {note}", file=sys.stderr if destination is None else sys.stdout)
    _present(recording, destination)
    if any(cell.interrupted for cell in recording.cells):
        return 130
    return EXIT_CODES[recording.verdict()[0]]


def _require_sides(options: RegressOptions) -> None:
    """Raise BadInput unless two artifacts, or a revision alone, were named."""
    from kdbench.data.preprocessing import parse_size

    baseline, candidate, base_ref = options.baseline, options.candidate, options.base_ref
    if (baseline is None or candidate is None) == (base_ref is None) or (base_ref and (baseline or candidate)):
        raise BadInput("kdbench regress: expected --baseline and --candidate, or --base-ref alone, or --replay alone")
    if options.size is not None:
        parse_size(options.size)
        if base_ref is None and not (baseline.is_file() and candidate.is_file()):  # type: ignore[union-attr]
            raise BadInput("--size: got it with a folder, expected two .onnx files or --base-ref: exports have a size")


def _destination(json_file: str | None) -> Path | None:
    """Where the recording goes; None for stdout alone."""
    destination = Path("regress.json" if json_file in (None, "-") else str(json_file))
    if destination.suffix != ".json":
        raise BadInput(f"--json: got '{destination}', expected a file that ends in .json, or -")
    if json_file == "-":
        return None
    check_writable(destination, ".md", ".png")
    return destination


@contextmanager
def _pairs(options: RegressOptions) -> Iterator[list[tuple[Artifact, Artifact]]]:
    """Baseline and candidate of every cell; exports of a revision are there while the block runs."""
    from kdbench.data.preprocessing import parse_size
    from kdbench.regress.artifact import find_artifacts, pair
    from kdbench.regress.base_ref import both_sides

    if options.base_ref is not None:
        tree = RunTree.find(options.runs, options.dataset, options.variant)
        with both_sides(options.base_ref, tree, options.chosen, options.size) as sides:
            yield pair(*sides, (options.base_ref, "the working tree"))
        return
    assert options.baseline is not None
    assert options.candidate is not None
    size = parse_size(options.size) if options.size else None
    paths = (options.baseline, options.candidate)
    found = [find_artifacts(path, options.chosen, size) for path in paths]
    yield pair(found[0], found[1], (options.baseline.as_posix(), options.candidate.as_posix()))


def _present(recording: Recording, destination: Path | None) -> None:
    """Print the summary, and write it and the picture beside the JSON; or, without a destination, print the JSON."""
    import json

    from rich.console import Console

    from kdbench.regress.picture import draw
    from kdbench.regress.summary import as_markdown, print_summary
    from kdbench.runs.files import write_text

    stream = sys.stdout if destination is not None else sys.stderr
    print_summary(recording, Console(file=stream, width=None if stream.isatty() else 200))
    if destination is None:
        print(json.dumps(recording.document(), allow_nan=False))
        return
    write_text(destination.with_suffix(".md"), as_markdown(recording))
    draw(recording, destination.with_suffix(".png"))
    print(f"written: {destination} (.md, .png beside it)")


def _show_replay(recording: Recording, json_file: str | None) -> int:
    """The exit code: the verdict's, but numbers of another machine are never a pass."""
    from kdbench.machine.environment import hardware
    from kdbench.regress.rule import EXIT_CODES

    destination = None if json_file is None else _destination(json_file)
    if destination is not None:
        recording.write(destination)
    _present(recording, destination)
    verdict, _ = recording.verdict()
    recorded, here = recording.environment["hardware"], hardware()
    if verdict == "pass" and any(here.get(key) != value for key, value in recorded.items()):
        print("recorded on another machine: no pass here", file=sys.stderr)
        return EXIT_CODES["inconclusive"]
    return EXIT_CODES[verdict]
