"""The commands that are killed, small enough that a kill and the next run take seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.corpus import FAST, RECIPE, make_data

GRID = """dataset = "folder"
data_root = "{at}/data"
recipe = "{at}/recipe.toml"
methods = ["response"]
"""
DATA = "--dataset folder --data-root {at}/data --runs {at}/runs"
ONNX = "{at}/runs/folder/response/exports/onnx-fp32/mask.onnx"


@dataclass(frozen=True)
class Command:
    """A command and where its real work begins.

    Attributes:
        line: its arguments; "{at}" is the folder of all inputs and outputs.
        work: the function whose first call is the first sign of real work, as ``Watch.note_work`` takes it; None = the
            first atomic replace, which in a sweep is a worker's.
        share: of the kills.
        needs: commands that run before it.
        fresh: arguments more where nothing lies there of an earlier run.
        codes: exit codes of its end.
    """

    line: str
    work: str | None
    share: float
    needs: tuple[str, ...] = ()
    fresh: str = ""
    codes: tuple[int, ...] = (0,)

    def arguments(self, at: Path, over: bool) -> list[str]:
        """Of the command line.

        Args:
            over: it runs over what an earlier run finished.
        """
        text = self.line if over else f"{self.line} {self.fresh}"
        return [part.replace("{at}", str(at)) for part in text.split()]


COMMANDS = {
    "train": Command(
        f"train --method teacher,response {DATA} --recipe {{at}}/recipe.toml {' '.join(FAST)}",
        "trainers.train:train_arms", 0.48, fresh="--resume",
    ),
    "export": Command(
        f"export --method response --format onnx --allow-drift {DATA} --threads 1",
        "exporters.export_job:ExportJob.graph", 0.1, ("train",),
    ),
    "compare": Command(
        f"compare --method response --backend torch,onnx --rounds 20 {DATA} {' '.join(FAST)}",
        "kdbench.comparison.compare:evaluate_reference", 0.045, ("train", "export"),
    ),
    # It ends at the first look that decides. 3: a machine that others use is not fit to tell, which is a verdict.
    "regress": Command(
        f"regress --baseline {ONNX} --candidate {ONNX} --budget 60 --margin 50 --tolerance 100 --threads 1 "
        "--json {at}/runs/folder/gate.json",
        "kdbench.regress.gate:measure_cell", 0.025, ("train", "export"), codes=(0, 3),
    ),
    "report": Command(f"report --pictures 2 {DATA} --threads 1", "kdbench.report.evidence:collect", 0.33, ("train",)),
    "sweep": Command("sweep {at}/grid.toml --runs {at}/swept", None, 0.02),
}  # fmt: skip
"""In the order in which each finds what it needs."""


def make_inputs(at: Path) -> None:
    """The data, the recipe and the grid, in a folder that is there."""
    make_data(at / "data")
    # A teacher as small as the student: what is written is a few megabytes.
    (at / "recipe.toml").write_text(RECIPE.replace("fpn_resnet18", "student"))
    (at / "grid.toml").write_text(GRID.format(at=at))
