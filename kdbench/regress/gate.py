"""``kdbench regress`` as a function: check that both sides compute the same, measure every cell, judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from kdbench.comparison.numbers import counted
from kdbench.errors import BadInput
from kdbench.machine.environment import environment
from kdbench.machine.scratch import ScratchFolder
from kdbench.progress import progress_bar
from kdbench.regress.artifact import Artifact
from kdbench.regress.blocks import Settings, measure_cell, try_out, warning_of_budget
from kdbench.regress.inputs import compare_outputs, make_inputs
from kdbench.regress.record import Cell, Recording

TICKS = 100


def run_gate(
    pairs: list[tuple[Artifact, Artifact]],
    settings: Settings,
    *,
    images: list[Path],
    allow_different_outputs: bool,
    keep: Callable[[Recording], None],
    say: Callable[[str], object] = lambda _: None,
) -> Recording:
    """Measure all cells in turn.

    Args:
        pairs: baseline and candidate of every cell.
        images: inputs; empty = generated scenes.
        allow_different_outputs: time them even where they compute different things.
        keep: given the recording after every block, to be written: a killed run leaves what it had.
        say: told, before anything is measured, which budgets are too short.

    Raises:
        BadInput: the sides compute different things. RunFailed: an artifact does not run here.
    """
    recording = Recording(
        environment=environment(),
        settings={
            "threads": settings.threads, "device": settings.device, "budget_s": settings.budget_s,
            "seed": settings.seed, "rounds": settings.rounds, "rule": asdict(settings.rule),
        },
        cells=[],
    )  # fmt: skip
    with ScratchFolder("regress") as folder:
        files = []
        for index, (baseline, candidate) in enumerate(pairs):
            file = Path(folder) / f"inputs-{index}.npy"
            inputs, what = make_inputs(baseline.shape, baseline.dtype, images, settings.seed, baseline.input)
            np.save(file, inputs)
            files.append(file)
            trials = [try_out(side, settings, file) for side in (baseline, candidate)]
            same, how_near = compare_outputs(trials[0].outputs, trials[1].outputs, baseline.shape)
            name = baseline.name or baseline.path.stem
            if warning := warning_of_budget(name, trials, settings, len(pairs)):
                say(f"warning: {warning}")
            if not same and not allow_different_outputs:
                raise BadInput(
                    f"{name}: '{baseline.shown}' and '{candidate.shown}' compute different things "
                    f"({how_near}; {what}), expected the same: a faster model that is wrong is no improvement; "
                    "where that is meant, --allow-different-outputs times them all the same"
                )
            recording.cells.append(
                Cell(
                    name=name,
                    backend=" → ".join(dict.fromkeys((baseline.backend, candidate.backend))), baseline=baseline.about(),
                    candidate=candidate.about(), inputs=what, outputs=how_near, outputs_same=same,
                )
            )  # fmt: skip
        for cell, sides, file in zip(recording.cells, pairs, files, strict=True):
            with progress_bar(f"gate {cell.name}", TICKS) as bar:

                def on_block(cell: Cell, spent: float) -> None:
                    keep(recording)
                    bar.advance(min(TICKS, int(spent * TICKS)) - bar.done, _progress_text(cell))

                try:
                    measure_cell(cell, sides, file, settings, len(pairs), on_block)
                except KeyboardInterrupt:
                    cell.interrupted = True
                    keep(recording)
                    raise
    keep(recording)
    return recording


def _progress_text(cell: Cell) -> str:
    ratio = float(np.exp(np.median(cell.ln_ratios("candidate"))))
    return f"{counted(len(cell.blocks), 'block')}, ratio {ratio:.3f}"
