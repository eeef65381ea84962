"""Recipes: every number of a training run, read from a TOML file and checked before anything starts.

``recipes/<name>.toml`` ship with kdbench: one per dataset, and ``guide`` with the assignment guide's numbers,
literally. ``--recipe`` takes such a name or a path; flags of ``kdbench train`` win over the file. What only some
methods read they declare themselves (``kdbench.methods``), before this file is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from kdbench.data.open import DATASETS
from kdbench.data.preprocessing import MAX_SIDE, Size
from kdbench.errors import BadInput
from kdbench.methods.base import recipe_fields
from kdbench.models.architectures import require_size
from kdbench.runs.files import read_toml
from kdbench.runs.tree import HOLD_OUT, variant_of
from trainers.network_recipe import LabelledShare, NetworkRecipe, StudentRecipe, TeacherRecipe

RECIPES = Path(__file__).parent / "recipes"
OTHER_DATA = "folder"
"""The recipe of a dataset that has none of its own."""
OWN = tuple(field for field in TeacherRecipe.model_fields if field not in NetworkRecipe.model_fields)
"""Fields of [teacher] that are of its training, and not of its network."""
MAX_SEED = 2**31 - 1
"""Seeds of batches are multiples of it that must fit in 64 bits."""

MAX_VIEWS = 1000
"""Of an image; beyond, augmentation anew is what is wanted."""


class Common(BaseModel):
    """A training run; the same for every student method. ``Recipe`` adds what only some of them read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    size: Size = Field((512, 512), description="height, width that images are resized to, and exports take")
    student: StudentRecipe = Field(
        default_factory=lambda: StudentRecipe.model_validate({}),
        description="the table [student], fields below, or a network's name alone",
    )
    images: int | None = Field(None, ge=1, description="train on the first N images only; None = all")
    labelled: LabelledShare = Field(
        1.0,
        description="share of the training images whose labels are used, evenly spaced, or a list file of their "
        "names; distilled methods learn from the teacher on the others, the baseline and the teacher do not see them",
    )
    unlabelled_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="of each step of a distilled method, images without labels; None = all in one shuffled order",
    )
    epochs: int = Field(30, ge=1, description="passes over the training images")
    batch_size: int = Field(8, ge=2, description="images per step, 2 or more; a smaller last batch is left out")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adamw", description="sgd has momentum 0.9")
    lr: float = Field(1e-3, gt=0, description="peak learning rate, after the warm-up")
    weight_decay: float = Field(0.0, ge=0, description="not on BatchNorm and biases")
    schedule: Literal["cosine", "poly", "constant"] = Field("cosine", description="poly has power 0.9")
    warmup_steps: int = Field(0, ge=0, description="linear, before the schedule")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of the students' forward and backward; auto = what this machine is faster in"
    )
    teacher_precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of the teacher's training and its passes"
    )
    class_weights: bool = Field(False, description="median-frequency cross-entropy weights, capped at 5, in every arm")
    logit_adjustment: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the class weights' bias that deployed logits are free of: at 0 they over-predict rare "
        "classes, at 1 they are probabilities of the data; mIoU is best between",
    )

    scale_min: float = Field(1.0, gt=0, description="random zoom, log-uniform")
    scale_max: float = Field(1.0, gt=0, description="upper end of the random zoom")
    flip: bool = Field(True, description="horizontally, half of the time")
    jitter: float = Field(0.0, ge=0, description="brightness, contrast and colour shift, in units of ImageNet's std")
    cutmix: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability that half of an image, a rectangle, is another one's of the step, labels and all "
        "(CutMix); in every arm, and the teacher looks at the mixed image; 0 = off",
    )

    views: int = Field(
        0,
        ge=0,
        le=MAX_VIEWS,
        description="augmented views of each image that are made once, with what the teacher says of them, for all "
        "methods and seeds; 0 = augmentation anew in every step",
    )

    alpha: float = Field(1.0, ge=0, description="weight of cross-entropy")

    validate_every: int = Field(5, ge=1, description="epochs between validations; the last epoch always has one")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="of initialisation, order of images, and augmentation")
    teacher: TeacherRecipe = Field(
        default_factory=lambda: TeacherRecipe.model_validate({}), description="the table [teacher], fields below"
    )

    @model_validator(mode="before")
    @classmethod
    def read_earlier_form(cls, given: Any) -> Any:
        """``student_weights`` stood beside ``student`` before that was a table."""
        if not isinstance(given, dict) or "student_weights" not in given:
            return given
        student = given.get("student", {})
        table = {"arch": student} if isinstance(student, str) else dict(student)
        rest = {key: value for key, value in given.items() if key != "student_weights"}
        return {**rest, "student": {**table, "weights": given["student_weights"]}}

    @property
    def view_size(self) -> Size:
        """(H, W) at which images are augmented: what the teacher sees."""
        return self.teacher.size or self.size

    def for_teacher(self) -> Self:
        """The recipe of the teacher's own training."""
        changes = {k: v for k in OWN if (v := getattr(self.teacher, k)) is not None}
        teacher = self.teacher.model_copy(update={"size": None})
        return self.model_copy(update={**changes, "precision": self.teacher_precision, "teacher": teacher, "views": 0})

    def changes_since(self, recorded: dict[str, Any]) -> list[str]:
        """Fields that a recorded recipe has otherwise, as "lr 0.001 → 0.5".

        A field that it lacks came with a later version, whose default does what was done before; so in [teacher]. A
        precision "auto" asks for none.
        """
        defaults = Recipe.model_validate({}).model_dump(mode="json")
        teacher = {**defaults["teacher"], **recorded.get("teacher", {})}
        before = {**defaults, **recorded, "teacher": teacher}
        now = self.model_dump(mode="json")
        free = {key for key in ("precision", "teacher_precision") if "auto" in (before.get(key), now[key])}
        return [
            f"{key} {before.get(key)} → {value}"
            for key, value in now.items()
            if before.get(key) != value and key not in free
        ]


def recipe_of(dataset: str) -> str:
    """The recipe that a dataset is trained by where none is named; says so where it is none of its own.

    Raises:
        BadInput: no such dataset.
    """
    if DATASETS[dataset].recipe is None:
        print(f"kdbench: --dataset {dataset} has no recipe of its own: taking '{OTHER_DATA}'", file=sys.stderr)
    return usual_recipe(dataset)


def usual_recipe(dataset: str) -> str:
    """The recipe that a dataset's usual training is by, whichever this one is."""
    return DATASETS[dataset].recipe or OTHER_DATA


def variant_name(
    dataset: str,
    recipe: Recipe,
    unlabelled: Path | None = None,
    hold_out: str | None = None,
    *,
    match_time: bool = False,
) -> str | None:
    """What a training has that the dataset's usual one has not, as a folder's name.

    Args:
        unlabelled: the folder of images without labels that it learns from as well.
        hold_out: the recording that it does not see.
        match_time: its methods have one wall-clock, and not the same steps.
    """
    usual_training = load_recipe(usual_recipe(dataset), {})
    usual, own = usual_training.student, recipe.student
    differs = {}
    if own != usual:
        differs["student"] = own.network.label + "".join(f" {key}" for key in (own.taps, own.input) if key)
        if weights := own.weights or ("none" if usual.weights and own.arch == usual.arch else None):
            differs["weights"] = weights
    if recipe.labelled != usual_training.labelled:
        listed = isinstance(recipe.labelled, str)
        differs["labelled"] = Path(str(recipe.labelled)).stem if listed else f"{recipe.labelled:g}"
    if unlabelled is not None:
        differs["unlabelled"] = unlabelled.absolute().name
    if recipe.views != usual_training.views:
        differs["views"] = str(recipe.views)
    if recipe.cutmix != usual_training.cutmix:
        differs["cutmix"] = f"{recipe.cutmix:g}"
    if hold_out is not None:
        differs[HOLD_OUT] = hold_out
    if match_time:
        differs["matched"] = "time"
    return variant_of(differs)


def recipe_file(name_or_path: str) -> Path:
    return Path(name_or_path) if name_or_path.endswith(".toml") else RECIPES / f"{name_or_path}.toml"


def declared_fields() -> dict[str, Any]:
    """The fields that methods declare, as Pydantic takes them.

    Raises:
        BadInput: a name that ``Common`` has.
    """
    fields = recipe_fields()
    if taken := fields.keys() & {*Common.model_fields, *dir(Common)}:
        raise BadInput(
            f"a method declares the recipe's field '{min(taken)}', which every recipe has: give it another name"
        )
    return {
        field.name: (
            Literal[field.choices] if field.choices else type(field.default),
            Field(field.default, gt=field.above, ge=field.at_least, le=field.at_most, description=field.description),
        )
        for field in fields.values()
    }


if TYPE_CHECKING:

    class Recipe(Common):
        """``Common``, and the fields that methods declare: they only come to be known as this runs."""

        def __getattr__(self, name: str) -> Any: ...
else:
    Recipe = create_model("Recipe", __base__=Common, __module__=__name__, **declared_fields())


def load_recipe(name_or_path: str, overrides: dict[str, Any], teacher_arch: str | None = None) -> Recipe:
    """Read a recipe and apply the command line's overrides (None = not given).

    ``epochs`` among the overrides is for the teacher too: "same budget" would not be read otherwise. A network that is
    named takes the place of the recipe's, of which nothing is left then: not its weights, taps or input.
    ``student_weights`` are those of the student, whichever it is.

    Raises:
        BadInput: no such recipe, not TOML, or a field that is unknown or out of range; all problems at once.
    """
    path = recipe_file(name_or_path)
    if not path.is_file() and name_or_path in DATASETS:
        path = recipe_file(DATASETS[name_or_path].recipe or OTHER_DATA)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise BadInput(f"--recipe: got '{name_or_path}', expected one of {known}, or the path of a .toml file")
    fields = read_toml(path, "recipe")
    overrides = {key: value for key, value in overrides.items() if value is not None}
    flags = {*overrides, *(["teacher"] if teacher_arch is not None else [])}
    teacher = fields.get("teacher", {})
    if not isinstance(teacher, dict):
        raise BadInput(f"recipe '{path.name}': teacher: got {teacher!r}, expected a table: [teacher], then arch = …")
    teacher = dict(teacher)
    if teacher_arch is not None:
        teacher = {"arch": teacher_arch, **{key: value for key, value in teacher.items() if key in OWN}}
    if "epochs" in overrides:
        teacher.pop("epochs", None)
    student = overrides.pop("student", fields.get("student", {}))
    if (weights := overrides.pop("student_weights", None)) is not None:
        student = {**({"arch": student} if isinstance(student, str) else student), "weights": weights}
    try:
        recipe = Recipe.model_validate({**fields, **overrides, "student": student, "teacher": teacher})
    except ValidationError as error:
        problems = "; ".join(
            f"{named(p['loc'], flags)}: got {p['input']!r}, {p['msg'][0].lower()}{p['msg'][1:]}" for p in error.errors()
        )
        raise BadInput(f"recipe '{path.name}' with the flags given: {problems}") from error
    if recipe.scale_min > recipe.scale_max:
        raise BadInput(f"recipe '{path.name}': scale_min {recipe.scale_min} is above scale_max {recipe.scale_max}")
    if recipe.logit_adjustment and not recipe.class_weights:
        raise BadInput(
            f"recipe '{path.name}': logit_adjustment {recipe.logit_adjustment} without class weights, whose bias it "
            "takes away: add class_weights = true, or leave logit_adjustment out"
        )
    if min(recipe.size) < 32 or max(recipe.size) > MAX_SIDE:
        raise BadInput(f"recipe '{path.name}': size {recipe.size}, expected 32 x 32 to {MAX_SIDE} x {MAX_SIDE}")
    for network, size, flag in (
        (recipe.student.network, recipe.size, "--size"),
        (recipe.teacher.network, recipe.view_size, "--size (teacher.size)"),
    ):
        if ":" not in network.arch:  # what others take shows a pass, once the number of classes is known
            require_size(network, size, flag)
    (height, width), (high, wide) = recipe.size, recipe.view_size
    if high % height or wide % width or high // height != wide // width:
        raise BadInput(
            f"recipe '{path.name}': teacher.size {high}x{wide}, expected a whole multiple of the students' "
            f"{height}x{width}, for example {2 * height}x{2 * width}"
        )
    return recipe


def named(location: tuple[str | int, ...], flags: set[str]) -> str:
    """A field as the person gave it: "--kl-reduction" when it came by a flag, "teacher.lr" when by the file."""
    if location and location[0] in flags and location[1:] in ((), ("arch",)):
        return f"--{str(location[0]).replace('_', '-')}"
    return ".".join(map(str, location))
