"""``kdbench sweep``."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.cli.app import app
from kdbench.cli.options import Runs, json_result, results_file
from kdbench.errors import RunFailed
from kdbench.progress import is_quiet
from kdbench.runs.files import read_json

if TYPE_CHECKING:
    from trainers.grid import Sweep

LINE_EVERY_SECONDS = 30.0


@app.command(rebuilds=True)
def sweep(
    grid: Annotated[Path, typer.Argument(help="A .toml file: dataset, methods, seeds, and settings of the recipe.")],
    runs: Runs = Path("runs"),
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster's address, or auto. Default: this machine.")
    ] = None,
    cpus_per_run: Annotated[float, typer.Option(min=0.1, help="CPU cores that a run occupies.")] = 1.0,
    gpus_per_run: Annotated[
        float | None, typer.Option(min=0.0, help="GPUs that a run occupies, 0.5 for two on one. Default: 1 if any.")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a run whose worker died is taken up again.")] = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Train anew what was finished with other settings or data.")
    ] = False,
    json_file: Annotated[
        str | None,
        typer.Option("--json", help="A file, or - for stdout too. Default: <runs>/sweep-<grid's name>.json."),
    ] = None,
) -> None:
    """Train methods x seeds x settings on Ray, and compare them: finished runs are skipped, dead workers replaced.

    The file names what is trained (see trainers/sweep.py):

      dataset = "camvid"
      data_root = "data/camvid"
      methods = ["baseline", "response", "dist"]
      seeds = [0, 1, 2]

      \\[settings.short]
      epochs = 60

    Runs lie where kdbench train puts them, with settings in <runs>/<setting>/, so that export, compare and plot work
    on them.

    Examples:
      kdbench sweep grid.toml
      kdbench sweep grid.toml --address auto --gpus-per-run 0.5
    """
    from rich.console import Console

    from kdbench.comparison.sweep_results import COLUMNS, cells, sweep_rows, write_sweep
    from kdbench.machine.environment import environment
    from trainers.grid import plan, read_grid
    from trainers.sweep import import_ray, run_sweep, trained_miou

    described = read_grid(grid)
    planned = plan(described, runs, overwrite=overwrite)
    destination = results_file(json_file, runs / f"sweep-{grid.stem}.json")
    import_ray()
    about = environment()
    try:
        with LiveTable(planned) as show:
            run_sweep(
                planned, address=address, cpus=cpus_per_run, gpus=gpus_per_run, retries=retries, on_change=show
            )  # fmt: skip
    except KeyboardInterrupt:
        print("kdbench: interrupted; finished epochs are kept: go on with the same command", file=sys.stderr)
        raise typer.Exit(130) from None
    rows = sweep_rows([(run.setting, method, sidecar) for run, method, sidecar in trained_miou(planned)])
    outcome: list[dict[str, Any]] = [
        {"setting": r.setting, "methods": list(r.methods) or ["teacher"], "seed": r.recipe.seed, "state": r.state,
         "attempts": r.attempts, "reason": r.reason or None}
        for r in planned.all_runs
    ]  # fmt: skip
    write_sweep(
        destination, rows, {"environment": about, "grid": described.model_dump(mode="json"), "runs": outcome}
    )  # fmt: skip
    with json_result("-" if json_file == "-" else None) as document:
        document.update(read_json(destination, "kdbench sweep"))
        table = make_table(COLUMNS)
        for row in rows:
            table.add_row(*cells(row))
        Console(width=None if sys.stdout.isatty() else 160).print(table)
        for run in planned.all_runs:
            if run.reason:
                print(f"{run.name}: {run.reason}", file=sys.stderr)
        print(f"written: {destination} (.md, .csv beside it)")
    failed = [run for run in planned.all_runs if run.state == "failed"]
    if failed:
        raise RunFailed(
            f"{len(failed)} of {len(planned.all_runs)} runs failed, named above; the same command takes them up again"
        )


def make_table(columns: tuple[str, ...]) -> Any:
    from rich.table import Table

    table = Table()
    for column in columns:
        table.add_column(column)
    return table


class LiveTable:
    """Show every run's state: one table that renews itself on a terminal, a line now and then otherwise."""

    def __init__(self, planned: Sweep) -> None:
        from rich.console import Console
        from rich.live import Live

        self._runs = planned.all_runs
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal and not is_quiet() else None
        self._printed = math.inf if is_quiet() else time.monotonic()

    def __enter__(self) -> Any:
        if self._live:
            self._live.start()
        return self.show

    def __exit__(self, *_: object) -> None:
        self.show()
        if self._live:
            self._live.stop()

    def show(self) -> None:
        if self._live is None:
            if time.monotonic() - self._printed >= LINE_EVERY_SECONDS:
                self._printed = time.monotonic()
                ended = sum(run.state in ("done", "finished before", "failed") for run in self._runs)
                epochs = {run.name: run.progress()[0] for run in self._runs if run.state == "training"}
                active = "; ".join(f"{name}: epoch {epoch}" for name, epoch in epochs.items() if epoch)
                print(f"sweep: {ended}/{len(self._runs)} runs ended; {active}", file=sys.stderr, flush=True)
            return
        table = make_table(("Run", "State", "Epoch", "mIoU", "Attempts"))
        for run in self._runs:
            epoch, miou = run.progress() if run.state != "waiting" else (0, None)
            table.add_row(
                run.name, run.state if run.state != "training" or epoch else "waiting or starting",
                f"{epoch}/{run.epochs}", "–" if miou is None else f"{miou:.4f}", str(run.attempts),
            )  # fmt: skip
        self._live.update(table, refresh=True)
