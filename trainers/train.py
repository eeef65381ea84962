"""``kdbench train``: open the data, make or read the teacher, and train the methods asked for, seed by seed."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kdbench.data import SegmentationDataset
from kdbench.data.remembered import Remembered
from kdbench.data.unlabelled import ImagesWithoutLabels
from kdbench.machine.environment import environment
from kdbench.methods.base import METHODS
from kdbench.models.architectures import members
from kdbench.models.ensemble import Ensemble
from kdbench.models.network import Code, Network
from kdbench.models.registry import build_model
from kdbench.models.segmentation import SegmentationModel
from kdbench.runs.folder import RunFolder
from kdbench.runs.tree import RunTree
from trainers.arm import AnotherTraining, Arm, data_fields, mark_started
from trainers.batches import TrainingBatches
from trainers.finished import is_finished, train_anew
from trainers.images import Beside, TrainingImages
from trainers.lock import locked
from trainers.loop import save_arm, train_arms, validate
from trainers.methods import Objective, needs_teacher, require_something_to_learn, side_by_side
from trainers.networks import (
    Networks,
    Teaching,
    new_student,
    read_features,
    say_levels,
    say_start,
    say_view,
    student_fields,
    tried_networks,
)
from trainers.precision import faster_precision, recorded_precisions
from trainers.processes import from_main, is_main, use_cores, wait_for_all, world_size
from trainers.recipe import Recipe
from trainers.step_images import labelled_fields, say_steps
from trainers.teacher import open_teacher, require_members, require_same_classes
from trainers.time_match import Stage, time_matched
from trainers.view_making import Wanted, images_and_views
from trainers.weights import load_weights


@dataclass(frozen=True)
class TrainingJob:
    """Everything that one call of ``kdbench train`` needs besides the data.

    Attributes:
        methods: students to train side by side, possibly none; time-matched ones come after the others.
        match: the method whose wall-clock a time-matched one gets, or None for the slowest.
        train_teacher: train it anew; when a method needs it and it is missing, that is an error without this.
        seeds: students of the recipe's own seed lie in <method>/, those of others in <method>/seed-<n>/.
        weights: a file or published name that the teacher starts from, or None.
        about: dataset fields that go into every sidecar (how to open it again).
        deterministic: refuse operators whose result may differ from run to run.
        overwrite: with ``resume``, what was finished with other settings is trained anew.
        restart: the same of what was begun with other settings and is not finished.
        stages: of time-matched methods whose epochs are known: how they are trained.
        code: of a past training that is done again: the file that built its network.
    """

    tree: RunTree
    recipe: Recipe
    methods: tuple[str, ...]
    match: str | None
    train_teacher: bool
    seeds: tuple[int, ...]
    device: torch.device
    weights: str | None
    resume: bool
    about: dict[str, Any]
    deterministic: bool = False
    overwrite: bool = False
    restart: bool = False
    stages: tuple[Stage, ...] = ()
    code: Code | None = None


class Data(NamedTuple):
    """Both splits of a training, and images without labels that distilled methods learn from as well."""

    train: SegmentationDataset
    validation: SegmentationDataset
    unlabelled: ImagesWithoutLabels | None = None


def train(job: TrainingJob, data: Data) -> list[Path]:
    """Run the job and return the checkpoints, those that ``--resume`` found finished included.

    Raises:
        Missing: a method needs a teacher and there is none. RunFailed: see ``train_arms``.
        BadInput: another process trains in one of the folders, a network does not fit the data, or a method has no
            loss.
    """
    require_something_to_learn([*(["teacher"] if job.train_teacher else []), *job.methods], job.recipe)
    networks = tried_networks(
        job.recipe, len(data.train.classes), student=bool(job.methods), teacher=job.train_teacher, code=job.code
    )
    if job.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(job.deterministic)
    use_cores()
    about = {
        **job.about,
        **({"variant": job.tree.variant} if job.tree.variant else {}),
        **data_fields(*data, images=job.recipe.images),
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "device": job.device.type,
        "deterministic": job.deterministic,
        "environment": environment(),  # now: the checkout may move on while a training runs
    }
    teaching = None
    distils = any(needs_teacher(method) for method in job.methods)
    if distils and not job.train_teacher:
        teaching = Teaching(*open_teacher(job.tree, about["classes"], job.methods, job.device))
    made = []
    known = job.stages
    if not known and (together := tuple(m for m in job.methods if not METHODS[m].time_matched)):
        known = (Stage(together, job.recipe.epochs),)
    later = [method for method in job.methods if all(method not in stage.methods for stage in known)]
    students = {(seed, method): student_folder(job, method, seed) for seed in job.seeds for method in job.methods}
    teacher_folder = [job.tree.folder("teacher")] if job.train_teacher else []
    job = replace(job, recipe=in_a_precision(job, networks, teaching, len(data.train.classes)))
    with locked([*teacher_folder, *students.values()] if is_main() else []):
        for stage in known:
            mark(job, stage)
        if networks.teacher is not None:
            train_the_teacher(job, networks.teacher, about, data)
            made.append(job.tree.checkpoint("teacher"))
        if distils and teaching is None:
            teaching = Teaching(*open_teacher(job.tree, about["classes"], job.methods, job.device))
        if networks.student is not None:
            for stage in known:
                made += train_students(job, networks.student, stage, about, data, teaching)
            for method in later:
                longer, matched = time_matched(job.tree, job.recipe, job.match, method)
                stage = Stage((method,), longer.epochs, {method: matched})
                mark(job, stage)
                made += train_students(job, networks.student, stage, about, data)
    return made


def in_a_precision(job: TrainingJob, networks: Networks, teaching: Teaching | None, classes: int) -> Recipe:
    """The recipe with what "auto" is here: the same for all arms, seeds and processes, and said once."""
    recipe, device, remembered = job.recipe, job.device, Remembered(job.tree.data_file)
    asked = [field for field in ("precision", "teacher_precision") if getattr(recipe, field) == "auto"]
    if not asked:
        return recipe
    folders = [student_folder(job, method, seed) for seed in job.seeds for method in job.methods]
    known = recorded_precisions(folders, job.tree.folder("teacher")) if job.resume else {}
    chosen = {field: known[field] for field in asked if field in known}
    unknown = [field for field in asked if field not in known]
    if "precision" in unknown and networks.student is not None:
        make = partial(build_model, networks.student, classes)
        chosen["precision"] = faster_precision(networks.student.label, make, recipe.size, device, remembered)
    if "teacher_precision" in unknown and networks.teacher is not None:
        make, size = partial(build_model, networks.teacher, classes), recipe.for_teacher().size
        chosen["teacher_precision"] = faster_precision(networks.teacher.label, make, size, device, remembered)
    elif "teacher_precision" in unknown and teaching is not None:
        passes = f"passes of {teaching.sidecar['arch']}"
        chosen["teacher_precision"] = faster_precision(passes, teaching.itself, recipe.view_size, device, remembered)
    if is_main() and "bf16" in chosen.values():
        told = {"precision": "students", "teacher_precision": "the teacher"}
        faster = " and ".join(told[field] for field, precision in chosen.items() if precision == "bf16")
        print(f"precision auto: bf16 for {faster}")
    return recipe.model_copy(update=from_main(chosen))


def mark(job: TrainingJob, stage: Stage) -> None:
    """Leave a state without an epoch for each training that is to be done anew.

    An interrupted job leaves its later trainings not even begun: --resume must not take what an earlier job finished
    there for this one's.
    """
    if is_main() and not job.resume:
        for seed in job.seeds:
            for method in stage.methods:
                recipe = job.recipe.model_copy(update={"epochs": stage.epochs, "seed": seed})
                mark_started(student_folder(job, method, seed).state, recipe)
    wait_for_all()


def train_students(
    job: TrainingJob,
    network: Network,
    stage: Stage,
    about: dict[str, Any],
    data: Data,
    teaching: Teaching | None = None,
) -> list[Path]:
    """Train the methods of a stage side by side, seed by seed, and return their checkpoints."""
    made, recipe = [], job.recipe.model_copy(update={"epochs": stage.epochs})
    beside = Beside(unlabelled=data.unlabelled, remembered=Remembered(job.tree.data_file))
    build = partial(build_model, network, len(data.train.classes))
    images, views = images_and_views(
        Wanted(
            data.train, recipe, job.device, beside, job.tree.folder("teacher").views, teaching,
            build if teaching is not None and read_features(stage.methods, recipe) else None,
        )
    )  # fmt: skip
    if teaching is not None:
        say_view(recipe)
    wanted, said = members(network)[0].input, False
    for seed in job.seeds:
        seeded = recipe.model_copy(update={"seed": seed})
        for distils, group in side_by_side(stage.methods, mixed=recipe.labelled != 1 or data.unlabelled is not None):
            teacher = teaching.model if teaching is not None and distils else None
            view = None if teacher is None else teacher.input
            batches = TrainingBatches(images, seeded, unlabelled=distils, wanted=wanted, view=view, views=views)
            arms = []
            if batches.step_images["unlabelled"] and seed == job.seeds[0]:
                say_steps(group, batches)
            for method in group:
                student, filled = new_student(network, len(data.train.classes), seeded)
                if not said and not job.resume:
                    say_start(student, filled, data.train)
                    said = True
                student_about = {
                    **about, **labelled_fields(batches, data.unlabelled), **student_fields(network, student, filled),
                    **({"views": views.fields()} if views is not None else {}),
                }  # fmt: skip
                if method in stage.matched:
                    student_about["time_matched"] = stage.matched[method]
                if needs_teacher(method):
                    assert teaching is not None
                    student_about["teacher"] = teaching.sidecar
                    if seed == job.seeds[0]:
                        say_levels((method,), seeded, student, teaching.model)
                folder = student_folder(job, method, seed)
                arms.append(make_arm(method, student, folder.checkpoint, student_about, batches, teacher))
            asked = teacher if views is None else None
            run(arms, job, asked, batches, data.validation, f"seed {seed}: {', '.join(group)}{stage.told}")
            made += [arm.checkpoint for arm in arms]
    return made


def student_folder(job: TrainingJob, method: str, seed: int) -> RunFolder:
    return job.tree.folder(method, None if seed == job.recipe.seed else seed)


def train_the_teacher(job: TrainingJob, network: Network, about: dict[str, Any], data: Data) -> None:
    recipe = job.recipe.for_teacher().model_copy(update={"seed": job.recipe.seed})
    torch.manual_seed(recipe.seed)
    model = build_model(network, len(data.train.classes))
    checkpoint = job.tree.checkpoint("teacher")
    sources = [job.weights] if job.weights is not None else []
    if isinstance(model, Ensemble):
        sources = [file for weights in sources for file in weights.split(",")]
        require_members(network.arch, sources, checkpoint)
    filled = None
    if job.weights is not None:
        into = job.recipe.teacher.weights_into
        filled = load_weights(model, network.label, job.weights, "--teacher-weights", into)
        if is_main():
            print(filled.line("teacher"))
    complete = filled is not None and filled.complete
    arm_state = job.tree.folder("teacher").state
    if complete:
        # Nothing is left to learn: weights for just these classes are the teacher.
        require_same_classes(sources, list(data.train.classes))
        recipe = recipe.model_copy(update={"epochs": 0})
    if is_main():
        if complete:
            arm_state.unlink(missing_ok=True)
        elif not job.resume:
            mark_started(arm_state, recipe)
    wait_for_all()
    beside = Beside(remembered=Remembered(job.tree.data_file))
    images = TrainingImages(data.train, recipe.size, recipe.images, job.device, beside)
    batches = TrainingBatches(images, recipe, wanted=model.input)
    about = {key: value for key, value in about.items() if key not in ("variant", "unlabelled_train_images")}
    variant = job.tree.teacher_variant
    about |= {
        **({"variant": variant} if variant else {}), "train_images": images.with_masks,
        **labelled_fields(batches, None), **network.fields(), **model.input.fields(), "weights": job.weights,
    }  # fmt: skip
    if filled is not None:
        about["teacher_weights"] = filled.fields()
    arm = make_arm("teacher", model, checkpoint, about, batches)
    if complete:
        result = validate(arm, data.validation)
        if is_main():
            save_arm(arm, result)
        wait_for_all()
    else:
        run([arm], job, None, batches, data.validation, f"teacher {network.label}")


def make_arm(
    method: str,
    model: SegmentationModel,
    checkpoint: Path,
    about: dict[str, Any],
    batches: TrainingBatches,
    teacher: SegmentationModel | None = None,
) -> Arm:
    """A model in training by the recipe of its batches."""
    recipe, channels = batches.recipe, teacher.tap_channels if teacher is not None else None
    objective = Objective(model, method, recipe, channels, batches.class_weights)
    objective.to(batches.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    return Arm(method, objective, recipe, checkpoint, about, batches.steps_per_epoch)


def run(
    arms: list[Arm],
    job: TrainingJob,
    teacher: SegmentationModel | None,
    batches: TrainingBatches,
    validation: SegmentationDataset,
    title: str,
) -> None:
    """Train the arms, with ``--resume`` those that are not finished."""
    if job.resume:
        for arm in arms:
            try:
                arm.load_state()
            except AnotherTraining as error:
                if not (job.overwrite or job.restart):
                    raise
                train_anew(str(error))
                arm.state_file.unlink(missing_ok=True)
        arms = [arm for arm in arms if arm.state_file.exists() or not is_finished(arm, job.overwrite)]
        wait_for_all()  # the main process may end an arm at once
    if arms:
        train_arms(arms, teacher, batches, validation, title)
