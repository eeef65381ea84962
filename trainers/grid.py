"""What a sweep trains: the grid that a person wrote, and the runs that follow from it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdbench.data.open import join_dataset
from kdbench.errors import BadInput, KdbenchError, Missing
from kdbench.methods.base import METHODS
from kdbench.runs.files import read_toml
from kdbench.runs.folder import RunFolder
from kdbench.runs.history import read_rows
from kdbench.runs.tree import RunTree
from trainers.methods import needs_teacher
from trainers.recipe import MAX_SEED, Recipe, load_recipe, recipe_of, variant_name

State = Literal["waiting", "training", "done", "finished before", "failed"]


class Grid(BaseModel):
    """What a grid file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(description="as --dataset of kdbench train")
    data_root: Path | None = Field(None, description="as --data-root")
    accept_data: bool = Field(False, description="as --accept-data")
    unlabelled: Path | None = Field(None, description="as --unlabelled")
    recipe: str | None = Field(None, description="as --recipe; None = the dataset's")
    methods: list[str] = Field(min_length=1, description="students; the teacher is trained when one needs it")
    seeds: list[int] = Field([0], min_length=1, description="all methods are trained with each")
    side_by_side: bool = Field(True, description="methods of a seed in one worker, sharing the teacher's passes")
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="name → fields of the recipe; with several, runs lie in <runs>/<name>/"
    )

    def about_unlabelled(self) -> dict[str, str]:
        """What a sidecar says of the folder of images without labels."""
        return {} if self.unlabelled is None else {"unlabelled": self.unlabelled.as_posix()}


@dataclass
class Run:
    """What one worker trains: some methods side by side with one seed and setting; or the teacher, with no method.

    Attributes:
        setting: its name, or "" in a grid without settings.
        overwrite: what was finished with other settings is trained anew, which fails without.
        attempts: how often a worker was given it.
        reason: why it failed.
    """

    setting: str
    tree: RunTree
    recipe: Recipe
    methods: tuple[str, ...]
    grid: Grid
    overwrite: bool = False
    state: State = "waiting"
    attempts: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        what = ", ".join(self.methods) or "teacher"
        return f"{self.setting + ': ' if self.setting else ''}{what}, seed {self.recipe.seed}"

    @property
    def epochs(self) -> int:
        return (self.recipe if self.methods else self.recipe.for_teacher()).epochs

    @property
    def needs_teacher(self) -> bool:
        return any(needs_teacher(method) for method in self.methods)

    @cached_property
    def own_seed(self) -> int:
        """The seed whose students lie in <method>/ itself: of an earlier grid, or this grid's first."""
        for method in self.methods:
            with suppress(KdbenchError):  # a broken one belongs to nobody
                if (sidecar := self.tree.folder(method).finished("kdbench sweep")) is not None:
                    return int(sidecar["seed"])
        return self.grid.seeds[0]

    def folder(self, method: str) -> RunFolder:
        """Where ``kdbench train`` trains it: seeds other than ``own_seed`` lie in folders of their own."""
        seed = self.recipe.seed
        return self.tree.folder(method, None if seed == self.own_seed else seed)

    def checkpoint(self, method: str) -> Path:
        return self.folder(method).checkpoint

    def progress(self) -> tuple[int, float | None]:
        """Epochs done and the last mIoU of the method that is least far, from its history."""
        found = []
        for method in self.methods or ("teacher",):
            path = self.folder(method).history
            rows = read_rows(path, "kdbench sweep") if path.exists() else ()
            scores = [row["miou"] for row in rows if row.get("miou") is not None]
            found.append((len(rows), scores[-1] if scores else None))
        return min(found, key=lambda done: done[0])


@dataclass
class Sweep:
    """A grid's runs, and that of their teacher, when one is to be trained or kept."""

    runs: list[Run]
    teacher: Run | None = None

    @property
    def all_runs(self) -> list[Run]:
        return [*([self.teacher] if self.teacher else []), *self.runs]


def read_grid(path: Path) -> Grid:
    """Read a grid file.

    Raises:
        Missing: no such file. BadInput: not TOML, or a field that is unknown or out of range.
    """
    if not path.is_file():
        raise Missing(f"grid '{path}' does not exist, expected a .toml file with dataset, methods and seeds")
    try:
        grid = Grid.model_validate(read_toml(path, "grid"))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise BadInput(f"grid '{path}': {problems}") from error
    students = [m.name for m in METHODS if m.student and (grid.side_by_side or not m.time_matched)]
    if wrong := [m for m in grid.methods if m not in students]:
        raise BadInput(f"grid '{path}': methods: got '{wrong[0]}', expected some of {', '.join(students)}")
    for values, name in ((grid.methods, "methods"), (grid.seeds, "seeds")):
        if len(set(values)) != len(values):
            raise BadInput(f"grid '{path}': {name}: got {values}, expected each once")
    if min(grid.seeds) < 0 or max(grid.seeds) > MAX_SEED:
        raise BadInput(f"grid '{path}': seeds: got {grid.seeds}, expected whole numbers from 0 to {MAX_SEED}")
    for name in grid.settings:
        if (
            not name.isascii()
            or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
            or name[0] == "."
        ):
            raise BadInput(f"grid '{path}': settings: got '{name}', expected letters, digits, - _ .: it names a folder")
    return grid


def plan(grid: Grid, runs: Path, *, overwrite: bool = False) -> Sweep:
    """Every run of the grid, its recipe checked.

    Args:
        overwrite: see ``Run``.

    Raises:
        BadInput: no such recipe, or a setting's field that is unknown or out of range.
    """
    dataset = join_dataset(grid.dataset)
    recipe_name = grid.recipe or recipe_of(dataset)
    groups = [tuple(grid.methods)] if grid.side_by_side else [(method,) for method in grid.methods]
    planned = []
    for setting, fields in (grid.settings or {"": {}}).items():
        teacher_fields = fields.get("teacher")
        if "seed" in fields or teacher_fields is not None:
            raise BadInput(
                f"settings.{setting}: got seed or teacher, which are the same for all settings: leave it out"
            )
        for seed in grid.seeds:
            recipe = load_recipe(recipe_name, {**fields, "seed": seed})
            tree = RunTree(runs / setting, dataset, variant_name(dataset, recipe, grid.unlabelled))
            planned += [Run(setting, tree, recipe, group, grid, overwrite) for group in groups]
    sweep = Sweep(planned)
    if any(run.needs_teacher for run in planned):
        recipe = load_recipe(recipe_name, {"seed": grid.seeds[0]})
        tree = RunTree(runs, dataset, variant_name(dataset, recipe, grid.unlabelled))
        sweep.teacher = Run("", tree, recipe, (), grid, overwrite)
    return sweep
