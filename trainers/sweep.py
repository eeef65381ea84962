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
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdbench.data import open_dataset
from kdbench.data.check import require_sound
from kdbench.data.open import how_to_open, join_dataset
from kdbench.data.remembered import Remembered
from kdbench.data.unlabelled import open_unlabelled
from kdbench.errors import BadInput, KdbenchError, Missing
from kdbench.machine.guard import guarded
from kdbench.machine.scratch import ScratchFolder
from kdbench.methods.base import METHODS
from kdbench.runs.files import read_json
from kdbench.runs.tree import sidecar_path
from trainers.arm import NAMES, data_fields, differing
from trainers.grid import Grid, Run, Sweep
from trainers.teacher import copy_teacher, teacher_is_ready
from trainers.train import Data, TrainingJob, train

if TYPE_CHECKING:
    from types import ModuleType

INSTALL_RAY = "pip install 'ray>=2.40' (or kdbench with its extra: pip install 'kdbench[sweep]')"
DATA = ("classes", "train_images", NAMES, "unlabelled_train_images")
"""Fields of a sidecar by which a training's data are known."""
POLL_SECONDS = 1.0
LONGEST_TMPDIR = 24
"""Characters: a system's sockets have names of 103 or more, of which Ray takes 60."""


def data_of(grid: Grid) -> Data:
    """What the grid trains on."""
    name = join_dataset(grid.dataset)
    train_set, validation = (open_dataset(name, split, grid.data_root) for split in ("train", "val"))
    return Data(train_set, validation, open_unlabelled(grid.unlabelled, train_set, validation, grid.data_root))


def is_finished(run: Run, data: Data) -> bool:
    """Whether every checkpoint of the run is there, whole, of this recipe and data, and of the teacher in its tree.

    A teacher only has to be finished and of the recipe's architecture, as for ``kdbench train --method all``.
    """
    if not run.methods:
        return teacher_is_ready(run.tree, run.recipe)
    now = data_fields(*data, images=run.recipe.images)
    for method in run.methods:
        folder = run.folder(method)
        try:
            sidecar = folder.finished("kdbench sweep")
        except KdbenchError:
            return False
        if sidecar is None:
            return False
        same = METHODS[method].time_matched or not run.recipe.changes_since(sidecar["recipe"])
        of_data = differing(*({key: about[key] for key in DATA if key in about} for about in (sidecar, now)))
        teacher = run.tree.checkpoint("teacher")
        taught = "teacher" not in sidecar or (
            teacher.exists() and sidecar["teacher"]["sha256"] == read_json(sidecar_path(teacher), "")["sha256"]
        )
        if not (same and not of_data and taught and folder.is_whole(sidecar)):
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
    grid, data = run.grid, data_of(run.grid)
    accepted = require_sound(*data, accept=grid.accept_data, remembered=Remembered(run.tree.data_file))
    job = TrainingJob(
        tree=run.tree,
        # Seeds other than the job's own lie in folders of their own.
        recipe=run.recipe.model_copy(update={"seed": run.own_seed}),
        methods=run.methods,
        match=None,
        train_teacher=not run.methods,
        seeds=(run.recipe.seed,),
        device=torch.device(device),
        weights=run.recipe.teacher.weights,
        resume=True,
        overwrite=run.overwrite,
        restart=True,
        about={**how_to_open(join_dataset(grid.dataset), grid.data_root), **grid.about_unlabelled(), **accepted},
    )
    train(job, data)


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
    data = data_of(sweep.runs[0].grid)
    if all(is_finished(run, data) for run in sweep.all_runs):
        for run in sweep.all_runs:
            run.state = "finished before"
        return
    # Workers import kdbench from where this process did, installed or not.
    source = str(Path(__file__).resolve().parent.parent)
    search = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    with ExitStack() as stack:
        own = {} if address else {
            "include_dashboard": False, "runtime_env": {"env_vars": {"PYTHONPATH": search}},
            # Ray removes none of its logs and sockets, tens of megabytes of each start.
            "_temp_dir": stack.enter_context(session_folder()),
        }  # fmt: skip
        stack.callback(ray.shutdown)
        started = ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
        if not address:
            stack.enter_context(guarded(started.address_info["session_dir"]))
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
            complete(ray, [sweep.teacher], data, submit, retries, on_change)
            if sweep.teacher.state == "failed":
                for run in sweep.runs:
                    run.state, run.reason = "failed", "the teacher, which the sweep's methods learn from, failed"
                return
            for tree in {run.tree for run in sweep.runs if run.needs_teacher} - {sweep.teacher.tree}:
                copy_teacher(sweep.teacher.tree, tree)
        complete(ray, sweep.runs, data, submit, retries, on_change)


@contextmanager
def session_folder() -> Iterator[str | None]:
    """Where a Ray of our own keeps what it needs while it runs; None = where it likes: names of sockets are short."""
    if len(tempfile.gettempdir()) > LONGEST_TMPDIR:
        yield None
        return
    with ScratchFolder("ray") as folder:
        yield folder


def complete(
    ray: ModuleType,
    runs: Sequence[Run],
    data: Data,
    submit: Callable[[Run], Any],
    retries: int,
    on_change: Callable[[], None],
) -> None:
    """Bring every run to its end, good or bad."""
    active: dict[Any, Run] = {}
    for run in runs:
        if is_finished(run, data):
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


def trained_miou(sweep: Sweep) -> Iterator[tuple[Run, str, dict[str, Any]]]:
    """(run, method, sidecar) of every finished training."""
    for run in sweep.runs:
        if run.state in ("done", "finished before"):
            for method in run.methods:
                yield run, method, read_json(sidecar_path(run.checkpoint(method)), "kdbench sweep")
