"""What a method says of itself; everybody else asks ``METHODS``.

A method's file is its card: the docstring says what it does, when it helps, what it costs and which paper it is from;
below it stands the declaration. Nothing heavy is imported here or there, so that names can be completed at once:
losses import what they need when they are called, or are named by a path that the trainers resolve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kdbench.errors import BadInput
from kdbench.kinds import Kind

HISTORY_KEYS = ("epoch", "lr", "loss", "ce", "miou", "seconds")
"""What a row of a history has besides its method's terms."""
TITLE_WIDTH = 24
"""The column that improvements are printed in: a title leaves one of it free."""
PER_PIXEL = "mean per labelled pixel"


class Style(NamedTuple):
    """How a curve looks in plots: a colour, and a line style and marker that say the same in print.

    Attributes:
        color: "#RRGGBB", whose grey value is none of the others'.
        linestyle, marker: as Matplotlib has them.
    """

    color: str
    linestyle: str | tuple[int, tuple[int, ...]]
    marker: str


UNKNOWN = Style("#999999", "-", "")
"""Of a method or term that nothing here declares: a history of another kdbench, or of a plugin that is not loaded."""


@dataclass(frozen=True)
class RecipeField:
    """A number or a choice of the recipe, which a method reads and the baseline does not.

    Attributes:
        default: its type is the field's.
        above, at_least, at_most: bounds; above is exclusive.
        choices: the strings that it may be; empty for numbers.
    """

    name: str
    default: float | str
    description: str
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Term:
    """One loss that a method adds to cross-entropy; methods may share it.

    Attributes:
        name: its key in the history.
        legend: its name in plots.
        weight: the recipe's field that weighs it.
        loss: (student's Taps, teacher's Taps, labels N x H x W, recipe) → scalar, or "module:function" that is.
        fields: what else of the recipe it reads.
        adapted: whether the student's features come projected to the teacher's channels.
        scale: what the axis of losses says of it, or a function of the recipe that says it: ``PER_PIXEL``, or ""
            where it is a mean over something else.
        features: False where it reads logits alone: views that are made once keep no features for it.
    """

    name: str
    legend: str
    style: Style
    weight: RecipeField
    loss: Callable[..., Any] | str
    fields: tuple[RecipeField, ...] = ()
    adapted: bool = False
    scale: str | Callable[[Mapping[str, Any]], str] = ""
    features: bool = True

    def scale_in(self, recipe: Mapping[str, Any]) -> str:
        return self.scale if isinstance(self.scale, str) else self.scale(recipe)


@dataclass(frozen=True)
class Method:
    """A way of training a model.

    Attributes:
        name: on the command line, and of its folder below the runs.
        title: in tables, shorter than ``TITLE_WIDTH``.
        help: a few words, which shells show beside the name that they complete.
        terms: what it adds to cross-entropy; without any it needs no teacher.
        cross_entropy: whether that counts. If not, its weight is 0 whatever the recipe's alpha: logged, not learnt.
        in_all: whether ``--method all`` trains it.
        time_matched: it trains as the baseline does, for the wall-clock of a distilled method.
        student: False for the teacher, which is never exported.
    """

    name: str
    title: str
    help: str
    style: Style
    terms: tuple[Term, ...] = ()
    cross_entropy: bool = True
    in_all: bool = False
    time_matched: bool = False
    student: bool = True

    def __post_init__(self) -> None:
        if not 0 < len(self.title) < TITLE_WIDTH:
            raise BadInput(
                f"method '{self.name}': title: got '{self.title}' of {len(self.title)} letters, expected 1 to "
                f"{TITLE_WIDTH - 1}, which tables have room for"
            )
        names = [term.name for term in self.terms]
        for name in names:
            if name in HISTORY_KEYS or names.count(name) > 1:
                raise BadInput(
                    f"method '{self.name}': a term is named '{name}', which another column of the history is: "
                    "give it another name"
                )

    @property
    def distils(self) -> bool:
        """Whether a teacher teaches it."""
        return bool(self.terms)


METHODS = Kind[Method]("method", "--method", ("kdbench.methods",))


def student_methods() -> tuple[str, ...]:
    return tuple(method.name for method in METHODS if method.student)


def distilled_methods() -> tuple[str, ...]:
    return tuple(method.name for method in METHODS if method.distils)


def all_methods() -> tuple[str, ...]:
    """What ``train --method all`` stands for: not every method, so that nobody's time doubles without being asked."""
    return tuple(method.name for method in METHODS if method.in_all)


def method_in(run: str) -> str:
    """The method of a run, whose name may have a variant's before it: "student=x/response"."""
    return run.rpartition("/")[2]


def title_of(run: str) -> str:
    """A run's title: its method's, or the very name of one that is not declared here, and its variant."""
    variant, _, method = run.rpartition("/")
    title = METHODS[method].title if method in METHODS else method
    return f"{title}, {variant}" if variant else title


def style_of(run: str) -> Style:
    method = method_in(run)
    return METHODS[method].style if method in METHODS else UNKNOWN


def known_terms() -> dict[str, Term]:
    """The terms of all methods by their key in the history.

    Raises:
        BadInput: two different terms have one name.
    """
    terms: dict[str, Term] = {}
    for method in METHODS:
        for term in method.terms:
            if terms.setdefault(term.name, term) != term:
                raise BadInput(
                    f"method '{method.name}' declares the term '{term.name}' otherwise than another method does: "
                    "give it another name, or import that method's"
                )
    return terms


def recipe_fields() -> dict[str, RecipeField]:
    """The recipe's fields that methods declare, by name: the baseline reads none of them.

    Raises:
        BadInput: two different fields have one name.
    """
    fields: dict[str, RecipeField] = {}
    for term in known_terms().values():
        for field in (term.weight, *term.fields):
            if fields.setdefault(field.name, field) != field:
                raise BadInput(
                    f"term '{term.name}' declares the recipe's field '{field.name}' otherwise than another term does: "
                    "give it another name"
                )
    return fields
