"""``kdbench sweep``: methods x seeds x settings from a TOML grid, trained by Ray's workers.

A grid names what ``kdbench train`` takes, and settings, each a few fields of the recipe:

    dataset = "camvid"
    data_root = "data/camvid"
    recipe = "camvid"
    methods = ["baseline", "response", "dist"]
    seeds = [0, 1, 2]

    [settings.short]
    epochs = 60
    [settings.hot]
    temperature = 8.0

One teacher, of the recipe without a setting's changes, serves the whole grid. Workers keep their state where ``kdbench
train`` does, so a run whose worker died goes on from its last epoch, and finished runs are skipped. Machines of a
cluster need kdbench installed, and the runs folder and the data under the same paths.
"""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdbench.data import open_dataset
from kdbench.errors import BadInput, KdbenchError, Missing
from kdbench.methods.base import METHODS
from kdbench.runs.files import atomic_path, read_json, sha256
from kdbench.runs.history import read_rows
from kdbench.runs.tree import RunTree, sidecar_path
from trainers.methods import needs_teacher
from trainers.recipe import MAX_SEED, Recipe, load_recipe
from trainers.teacher import teacher_is_ready
from trainers.train import TrainingJob, train

if TYPE_CHECKING:
    from types import ModuleType

INSTALL_RAY = "pip install 'ray>=2.40' (or kdbench with its extra: pip install 'kdbench[sweep]')"
POLL_SECONDS = 1.0

State = Literal["waiting", "training", "done", "finished before", "failed"]


class Grid(BaseModel):
    """What a grid file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(description="as --dataset of kdbench train")
    data_root: Path | None = Field(None, description="as --data-root")
    recipe: str | None = Field(None, description="as --recipe; None = the dataset's")
    methods: list[str] = Field(min_length=1, description="students; the teacher is trained when one needs it")
    seeds: list[int] = Field([0], min_length=1, description="all methods are trained with each")
    side_by_side: bool = Field(True, description="methods of a seed in one worker, sharing the teacher's passes")
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="name → fields of the recipe; with several, runs lie in <runs>/<name>/"
    )


@dataclass
class Run:
    """What one worker trains: some methods side by side with one seed and setting; or the teacher, with no method.

    Attributes:
        setting: its name, or "" in a grid without settings.
        attempts: how often a worker was given it.
        reason: why it failed.
    """

    setting: str
    tree: RunTree
    recipe: Recipe
    methods: tuple[str, ...]
    grid: Grid
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

    def checkpoint(self, method: str) -> Path:
        """Where ``kdbench train`` puts it: seeds other than the grid's first lie in folders of their own."""
        path = self.tree.checkpoint(method)
        first = self.grid.seeds[0]
        return path if self.recipe.seed == first else path.parent / f"seed-{self.recipe.seed}" / path.name

    def progress(self) -> tuple[int, float | None]:
        """Epochs done and the last mIoU of the method that is least far, from its history."""
        found = []
        for method in self.methods or ("teacher",):
            path = self.checkpoint(method).parent / "history.jsonl"
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
        grid = Grid.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"grid '{path}' cannot be read as TOML ({error}): mend the file") from error
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


def plan(grid: Grid, runs: Path) -> Sweep:
    """Every run of the grid, its recipe checked.

    Raises:
        BadInput: no such recipe, or a setting's field that is unknown or out of range.
    """
    recipe_name = grid.recipe or grid.dataset
    groups = [tuple(grid.methods)] if grid.side_by_side else [(method,) for method in grid.methods]
    planned = []
    for setting, fields in (grid.settings or {"": {}}).items():
        teacher_fields = fields.get("teacher")
        if "seed" in fields or teacher_fields is not None:
            raise BadInput(
                f"settings.{setting}: got seed or teacher, which are the same for all settings: leave it out"
            )
        tree = RunTree(runs / setting, grid.dataset)
        for seed in grid.seeds:
            recipe = load_recipe(recipe_name, {**fields, "seed": seed})
            planned += [Run(setting, tree, recipe, group, grid) for group in groups]
    sweep = Sweep(planned)
    if any(run.needs_teacher for run in planned):
        recipe = load_recipe(recipe_name, {"seed": grid.seeds[0]})
        sweep.teacher = Run("", RunTree(runs, grid.dataset), recipe, (), grid)
    return sweep


def is_finished(run: Run) -> bool:
    """Whether every checkpoint of the run is there, whole, of this recipe, and of the teacher in its tree.

    A teacher only has to be finished and of the recipe's architecture, as for ``kdbench train --method all``.
    """
    if not run.methods:
        return teacher_is_ready(run.tree, run.recipe)
    for method in run.methods:
        path = run.checkpoint(method)
        if not (path.exists() and sidecar_path(path).exists()) or (path.parent / "state.pt").exists():
            return False
        try:
            sidecar = read_json(sidecar_path(path), "kdbench sweep")
        except KdbenchError:
            return False
        same = METHODS[method].time_matched or not run.recipe.changes_since(sidecar["recipe"])
        teacher = run.tree.checkpoint("teacher")
        taught = "teacher" not in sidecar or (
            teacher.exists() and sidecar["teacher"]["sha256"] == read_json(sidecar_path(teacher), "")["sha256"]
        )
        if not (same and taught and sidecar["epoch"] == sidecar["epochs"] and sha256(path) == sidecar["sha256"]):
            return False
    return True


def train_run(run: Run, folder: str, command: list[str], device: str) -> None:
    """Train, or go on with, one run; what a worker executes.

    Args:
        folder: working directory of the sweep, which relative paths are meant from.
        command: of the sweep, for sidecars.
    """
    os.chdir(folder)
    sys.argv = command
    grid = run.grid
    job = TrainingJob(
        tree=run.tree,
        # Seeds other than the job's own lie in folders of their own.
        recipe=run.recipe.model_copy(update={"seed": grid.seeds[0]}),
        methods=run.methods,
        match=None,
        train_teacher=not run.methods,
        seeds=(run.recipe.seed,),
        device=torch.device(device),
        weights=None,
        resume=True,
        about={"dataset": grid.dataset, "data_root": None if grid.data_root is None else grid.data_root.as_posix()},
    )
    train(job, open_dataset(grid.dataset, "train", grid.data_root), open_dataset(grid.dataset, "val", grid.data_root))


def import_ray() -> ModuleType:
    """Ray, or the error that says how to get it."""
    try:
        import ray
    except ImportError as error:
        raise Missing(f"kdbench sweep trains on Ray, which is not installed: {INSTALL_RAY}") from error
    return ray


def run_sweep(
    sweep: Sweep,
    *,
    address: str | None,
    cpus: float,
    gpus: float | None,
    retries: int,
    on_change: Callable[[], None],
) -> None:
    """Train what is not finished; states and reasons are in the runs.

    A worker that died is replaced ``retries`` times; an error of the training itself (NaN loss, bad data) is not tried
    again. One run's failure leaves the others.

    Args:
        address: of a Ray cluster; None starts Ray on this machine for as long as the sweep lasts.
        cpus, gpus: that a run occupies; None = one GPU where there are any.
        on_change: called every second or so.
    """
    ray = import_ray()
    if all(is_finished(run) for run in sweep.all_runs):
        for run in sweep.all_runs:
            run.state = "finished before"
        return
    # Workers import kdbench from where this process did, installed or not.
    source = str(Path(__file__).resolve().parent.parent)
    search = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    ray.init(
        address=address, include_dashboard=None if address else False, log_to_driver=False, logging_level="ERROR",
        runtime_env=None if address else {"env_vars": {"PYTHONPATH": search}},
    )  # fmt: skip
    try:
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        resources = ray.cluster_resources()
        for kind, wanted in (("CPU", cpus), ("GPU", gpus)):
            if wanted > resources.get(kind, 0):
                raise BadInput(
                    f"--{kind.lower()}s-per-run: got {wanted:g}, Ray has {resources.get(kind, 0):g} {kind} here: "
                    "ask for fewer, or no run could ever start"
                )
        worker = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=1)(train_run)

        def submit(run: Run) -> Any:
            run.state, run.attempts = "training", run.attempts + 1
            return worker.remote(run, os.getcwd(), list(sys.argv), "cuda" if gpus else "cpu")

        if sweep.teacher is not None:
            complete(ray, [sweep.teacher], submit, retries, on_change)
            if sweep.teacher.state == "failed":
                for run in sweep.runs:
                    run.state, run.reason = "failed", "the teacher, which the sweep's methods learn from, failed"
                return
            for tree in {run.tree for run in sweep.runs if run.needs_teacher} - {sweep.teacher.tree}:
                copy_teacher(sweep.teacher.tree, tree)
        complete(ray, sweep.runs, submit, retries, on_change)
    finally:
        ray.shutdown()


def complete(
    ray: ModuleType, runs: Sequence[Run], submit: Callable[[Run], Any], retries: int, on_change: Callable[[], None]
) -> None:
    """Bring every run to its end, good or bad."""
    active: dict[Any, Run] = {}
    for run in runs:
        if is_finished(run):
            run.state = "finished before"
        else:
            active[submit(run)] = run
    while active:
        ended, _ = ray.wait(list(active), num_returns=1, timeout=POLL_SECONDS)
        for future in ended:
            run = active.pop(future)
            try:
                ray.get(future)
                run.state = "done"
            except ray.exceptions.RayTaskError as error:
                run.state, run.reason = "failed", reason_of(error)
            except ray.exceptions.RayError as error:  # the worker, its memory or its machine is gone
                if run.attempts <= retries:
                    active[submit(run)] = run
                else:
                    first = " ".join(str(error).split())[:160]
                    run.state = "failed"
                    run.reason = f"its worker died {run.attempts} times ({type(error).__name__}: {first})"
        on_change()


def reason_of(error: Any) -> str:
    """An error of a worker's in a line; a bug keeps its traceback, on stderr."""
    cause = error.cause
    if isinstance(cause, KdbenchError):
        return " ".join(str(cause).split())
    print(error, file=sys.stderr)
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]} (a bug: its traceback is above)"


def copy_teacher(source: RunTree, destination: RunTree) -> None:
    """The teacher's checkpoint and sidecar into another tree; nothing where they are there already."""
    for path in (source.checkpoint("teacher"), sidecar_path(source.checkpoint("teacher"))):
        target = destination.method_dir("teacher") / path.name
        if target.exists() and sha256(target) == sha256(path):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)


def trained_miou(sweep: Sweep) -> Iterator[tuple[Run, str, dict[str, Any]]]:
    """(run, method, sidecar) of every finished training."""
    for run in sweep.runs:
        if run.state in ("done", "finished before"):
            for method in run.methods:
                yield run, method, read_json(sidecar_path(run.checkpoint(method)), "kdbench sweep")
