"""Parts that several files of ours record alike, as schemas: the environment, a recipe, a parity proof."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from kdbench.errors import one_line
from kdbench.methods.base import recipe_fields


class Recorded(BaseModel):
    """Fields that somebody reads later; others may be there."""

    model_config = ConfigDict(allow_inf_nan=False)


class Git(Recorded):
    revision: str | None
    dirty: bool | None = None


class Hardware(Recorded):
    cpu: str | None
    cores: int
    memory_gib: float
    gpu: list[str]
    os: str


class Environment(Recorded):
    hardware: Hardware
    versions: dict[str, str | None]
    git: Git
    command: str
    time: str


class ParityProof(Recorded):
    """What an export was held against, as far as tables and reports read it."""

    images: int
    pixel_agreement: float
    miou_reference: float | None = None
    miou_candidate: float | None = None
    iou_reference: list[float | None] | None = None
    iou_candidate: list[float | None] | None = None
    worse_classes: list[str] = Field(default_factory=list)


@cache
def _recipe() -> type[BaseModel]:
    """A recipe's fields that plots, the report and cards read, with those of the methods that are declared now."""
    # What is there is a table; a recipe of before may lack it.
    tables: Any = {"teacher": (dict[str, Any], Field(default_factory=dict))}
    numbers: Any = dict.fromkeys(("lr", "alpha"), (float | None, None))
    own: Any = {
        field.name: ((str if field.choices else float) | None, None) for field in recipe_fields().values()
    }  # fmt: skip
    return create_model(
        "Recipe",
        __base__=Recorded,
        batch_size=(int | None, None),
        optimizer=(str | None, None),
        **{**tables, **numbers, **own},
    )


def problem_of(error: ValidationError) -> str:
    """The first field that is wrong, what was received, and what was expected."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    got = "" if first["type"] in ("missing", "value_error") else f"got {one_line(repr(first['input']), 80)}, "
    said = first["msg"].removeprefix("Value error, ")
    return f"{where}: {got}{said}" if where else said


def fits(schema: type[BaseModel]) -> AfterValidator:
    """For a field that stays the object that it was in JSON, once that fits a schema."""
    return AfterValidator(lambda value: fitting(schema, value))


def fitting(schema: type[BaseModel], value: Any) -> Any:
    """The value itself.

    Raises:
        ValueError: it does not fit.
    """
    try:
        schema.model_validate(value)
    except ValidationError as error:
        raise ValueError(problem_of(error)) from error
    return value


AnEnvironment = Annotated[dict[str, Any], fits(Environment)]
ARecipe = Annotated[dict[str, Any], AfterValidator(lambda value: fitting(_recipe(), value))]
