"""The tables [student] and [teacher] of a recipe: which network, from which weights, and how it is to be read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from kdbench.data.normalisation import Input
from kdbench.data.preprocessing import Size
from kdbench.errors import BadInput
from kdbench.models.architectures import ARCHITECTURES, students
from kdbench.models.network import LEVELS, Network, Tap

NO_WEIGHTS = "none"
"""What stands in place of weights for a start from scratch, where a recipe would take some."""


class NetworkRecipe(BaseModel):
    """A network; its name alone may stand in the table's place."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    arch: str = Field(
        description="a built-in network, SOURCE:NAME of a package, or FILE.py:FUNCTION; arguments may follow it",
    )
    kwargs: dict[str, Any] = Field(default_factory=dict, description="what its function takes beside the classes")
    weights: str | None = Field(
        None, description="what it starts from: a file, a published name such as IMAGENET1K_V1, imagenet, or none"
    )
    weights_into: str | None = Field(None, description="the module that the weights fill; None = found by their names")
    taps: dict[str, str] = Field(
        default_factory=dict,
        description="low, mid, high = paths of the modules that distillation reads; {} = found by a pass",
    )
    input: dict[str, Any] | None = Field(
        None,
        description="mean, std, range (1 or 255), space (RGB or BGR) of its images; None = as the network declares",
    )

    @model_validator(mode="before")
    @classmethod
    def read_name(cls, given: Any) -> Any:
        """A name alone, or with its arguments in brackets."""
        given = {"arch": given} if isinstance(given, str) else given
        if not isinstance(given, dict) or not isinstance(given.get("arch"), str):
            return given
        try:
            named = Network.parse(given["arch"], "arch")
        except BadInput as error:
            raise PydanticCustomError("arch", "{said}", {"said": str(error)}) from error
        if not named.kwargs:
            return given
        return {**given, "arch": named.arch, "kwargs": {**given.get("kwargs", {}), **named.kwargs}}

    @field_validator("arch")
    @classmethod
    def is_known(cls, arch: str) -> str:
        unknown = [name for name in arch.split("+") if name not in ARCHITECTURES]
        if ":" not in arch and unknown:
            known = ", ".join(ARCHITECTURES.names())
            raise PydanticCustomError(
                "arch",
                "Expected one of {known}, several of them joined by +, SOURCE:NAME of a package, or FILE.py:FUNCTION",
                {"known": known},
            )
        return arch

    @field_validator("weights")
    @classmethod
    def read_none(cls, weights: str | None) -> str | None:
        return None if weights == NO_WEIGHTS else weights

    @field_validator("taps")
    @classmethod
    def have_levels(cls, taps: dict[str, str]) -> dict[str, str]:
        if odd := sorted(set(taps) - set(LEVELS)):
            raise PydanticCustomError("taps", f"Expected {', '.join(LEVELS)}, got '{odd[0]:.40}'")
        return taps

    @field_validator("input")
    @classmethod
    def can_be(cls, about: dict[str, Any] | None) -> dict[str, Any] | None:
        if about is None:
            return None
        try:
            return Input.read(about, "input").as_json()
        except BadInput as error:
            raise PydanticCustomError("input", "{said}", {"said": str(error)}) from error

    @property
    def network(self) -> Network:
        """What is to be built; its taps' shapes are not known yet."""
        return Network(
            self.arch,
            kwargs=self.kwargs,
            taps={level: Tap(path, 0, 0) for level, path in self.taps.items()},
            input=None if self.input is None else Input.read(self.input, "input"),
        )


def a_share_or_a_list(labelled: float | str) -> float | str:
    if not (Path(labelled).suffix == ".txt" if isinstance(labelled, str) else 0 < labelled <= 1):
        message = "Expected a share above 0, 1 at most, or a list file that ends in .txt"
        raise PydanticCustomError("labelled", message)
    return labelled


LabelledShare = Annotated[float | str, AfterValidator(a_share_or_a_list)]
"""Of which images labels are used: a share, evenly spaced, or a list file of their names."""


class StudentRecipe(NetworkRecipe):
    """The network that learns."""

    arch: str = Field(default_factory=lambda: students()[0], description=NetworkRecipe.model_fields["arch"].description)

    @model_serializer(mode="wrap")
    def short(self, serialize: Any) -> Any:
        """The name alone where nothing else is said, as recipes had it before they had a table."""
        said = {key: value for key, value in serialize(self).items() if value not in (None, {})}
        return said["arch"] if len(said) == 1 else said


class TeacherRecipe(NetworkRecipe):
    """The network that teaches, and what its own training does differently; None = as the students'."""

    arch: str = Field(
        "fcn_resnet50",
        description="as a student's, or trained models joined by + for the mean of their logits: fpn_resnet18+student",
    )
    epochs: int | None = Field(None, ge=1, description="passes over the training images")
    batch_size: int | None = Field(None, ge=2, description="images per step")
    lr: float | None = Field(None, gt=0, description="peak learning rate")
    size: Size | None = Field(
        None, description="height, width that it sees, a multiple of the students': their images are its reduction"
    )
    images: int | None = Field(None, ge=1, description="the first N that it learns from")
    labelled: LabelledShare | None = Field(
        None, description="labels that it learns from: more than the students' where it stands for one from elsewhere"
    )
    cutmix: float = Field(0.0, ge=0, le=1, description="of its own training, whatever the students have")
