"""A dataset file: where a person's images and masks are, how their names pair, and what masks mean.

name = "yard"                             # of its folder below runs/; default: the file's own name
images = "frames/*.jpg"                   # below root, which is the file's folder by default
masks = "labels/{stem}_L.png"
group = "^([^_]+)_"                       # in brackets: the recording
split = { val = 0.2, seed = 0 }           # or recordings, folders, list files
unlabelled = "more/*.jpg"                 # images that distilled methods learn from through their teacher
ignore = [255, "#000000"]
[classes]
road = ["#804080", "#ff0080"]             # several values or colours to one class
car = 8
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from kdbench.data.base import SegmentationDataset
from kdbench.data.faults import DESCRIBE, short
from kdbench.data.label_map import parse_colour
from kdbench.data.labels import MOST_CLASSES
from kdbench.data.open import Layout
from kdbench.errors import BadInput
from kdbench.runs.files import read_toml

Value = Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(min_length=1)]
PLACES = ("stem", "name", "folder", "split")
_PLACE = re.compile(r"\{(\w*)\}")
LISTS = (".txt", ".csv", ".tsv")
"""Endings of list files."""


class DatasetFile(BaseModel):
    """What a dataset file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(None, description="folder below runs/; default: the file's name")
    recipe: str | None = Field(None, description="as --recipe, where none is named; default: folder's")
    root: str = Field(".", description="folder that paths are relative to, itself relative to this file")
    images: list[str] = Field(min_length=1, description="globs, or a list file of images, or of images and masks")
    masks: str | None = Field(None, description="path of an image's mask; {stem}, {name}, {folder} are the image's")
    stem: str | None = Field(None, description="pattern whose brackets find {stem} in the name without suffix")
    group: str | None = Field(
        None, description="pattern whose brackets find the recording in the name, or, with /, path"
    )
    split: dict[str, float | str | list[str]] = Field(default_factory=dict, description="see docs")
    classes: dict[str, list[Value]] = Field(
        min_length=2, max_length=MOST_CLASSES, description="values or colours of each class"
    )
    ignore: list[Value] = Field(default_factory=list, description="values or colours that count nowhere")
    unmasked: str | None = Field(None, description="class of every pixel of an image without a mask")
    unlabelled: list[str] = Field(
        default_factory=list, description="globs, or a list file, of images that nobody labelled: a teacher does"
    )
    labels: Literal["masks", "coco", "yolo", "labelme"] = Field("masks", description="what masks are: images, polygons")

    @field_validator("images", "ignore", "unlabelled", mode="before")
    @classmethod
    def one_or_several(cls, given: Any) -> Any:
        return given if isinstance(given, list) else [given]

    @field_validator("classes", mode="before")
    @classmethod
    def named_classes(cls, given: Any) -> Any:
        if isinstance(given, list):
            return {str(name): [index] for index, name in enumerate(given)}
        if isinstance(given, dict):
            return {name: values if isinstance(values, list) else [values] for name, values in given.items()}
        return given

    @field_validator("stem", "group")
    @classmethod
    def one_pair_of_brackets(cls, pattern: str | None) -> str | None:
        try:
            compiled = re.compile(pattern or "()")
        except re.error as error:
            raise ValueError(f"expected a regular expression ({error})") from error
        if compiled.groups < 1:
            raise ValueError("expected brackets around the part that counts, as in '^([^_]+)_'")
        return pattern

    @model_validator(mode="after")
    def fits_together(self) -> DatasetFile:
        problems = [*self._class_problems(), *self._split_problems()]
        lists = [text for text in self.images if text.endswith(LISTS)]
        if self.masks is None and (not lists or len(lists) < len(self.images)):
            problems.append("masks: got none, expected a path with {stem}, or images = a list file of pairs")
        texts = [("images", text) for text in self.images] + [("masks", self.masks or "")]
        for key, text in texts:
            known = PLACES if key == "masks" else ("split",)
            if odd := [place for place in _PLACE.findall(text) if place not in known]:
                expected = ", ".join(f"{{{place}}}" for place in known)
                problems.append(f"{key}: got {{{odd[0]}}} in '{short(text)}', expected {expected}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def by_folder(self) -> bool:
        """Whether the path of images says the split."""
        return any("{split}" in text for text in self.images)

    def _class_problems(self) -> list[str]:
        problems, owner = [], dict[int | str, str]()
        entries = [(f"classes.{short(name)}", values) for name, values in self.classes.items()]
        for key, values in (*entries, ("ignore", self.ignore)):
            for value in values:
                if self.labels == "masks" and isinstance(value, str) and parse_colour(value) is None:
                    problems.append(
                        f"{key}: got '{short(value)}', expected a value from 0 to 255 or a colour, '#804080'"
                    )
                if self.labels == "masks" and isinstance(value, int) and value > 255:
                    problems.append(f"{key}: got {short(value)}, expected a value from 0 to 255")
                if value in owner:
                    problems.append(f"{key}: got {short(value)}, which is in {owner[value]} too: leave one out")
                owner[value] = key
        if self.labels == "masks" and not any(values for _, values in entries):
            problems.append("classes: got no value, expected some of each class")
        if self.unmasked is not None and self.unmasked not in self.classes:
            names = short(", ".join(self.classes))
            problems.append(f"unmasked: got '{short(self.unmasked)}', expected one of the classes {names}")
        return problems

    def _split_problems(self) -> list[str]:
        problems = []
        if odd := [key for key in self.split if key not in ("train", "val", "test", "seed")]:
            problems.append(f"split: got '{short(odd[0])}', expected train, val, test or seed")
        for key, value in self.split.items():
            if key == "seed" and not (isinstance(value, float) and value.is_integer()):
                problems.append(f"split.seed: got {short(value)}, expected a whole number")
            if key in ("val", "test", "train") and isinstance(value, float) and not 0 < value < 1:
                problems.append(f"split.{key}: got {value}, expected a share between 0 and 1")
            if key in ("val", "test", "train") and self.by_folder and not isinstance(value, str):
                problems.append(f"split.{key}: got {short(value)}, expected the word for {{split}} in images")
        if isinstance(self.split.get("train"), float):
            problems.append("split.train: got a share, expected those of val and test: the rest is train's")
        if not self.by_folder and "val" not in self.split:
            problems.append(
                "split: got no val, expected a share as val = 0.2, recordings, a list file, or {split} in images"
            )
        return problems


def read_dataset_file(path: Path) -> DatasetFile:
    """Read a dataset file.

    Raises:
        BadInput: there is none, or what is wrong with it, all in one line.
    """
    if not path.is_file():
        raise BadInput(f"--dataset: dataset file '{path}' does not exist: {DESCRIBE}")
    try:
        return DatasetFile.model_validate(read_toml(path, "dataset file"))
    except ValidationError as error:
        raise BadInput(f"dataset file '{path}': {'; '.join(_problems(error))}") from error


def _problems(error: ValidationError) -> list[str]:
    """One text for each key, of a union its first complaint alone."""
    found: dict[str, str] = {}
    for one in error.errors():
        where = [str(part) for part in one["loc"] if part not in ("int", "str", "float", "list[str]") and _is_key(part)]
        message = one["msg"].removeprefix("Value error, ")
        if not where:  # made by fits_together, which names its keys
            return [message]
        said = message[0].lower() + message[1:]
        if one["type"] == "extra_forbidden":
            said = f"expected one of {', '.join(DatasetFile.model_fields)}"
        found.setdefault(".".join(where), said if one["type"] == "missing" else f"got {_value(one['input'])}, {said}")
    return [f"{short(key)}: {text}" for key, text in found.items()]


def _is_key(part: int | str) -> bool:
    return not (isinstance(part, str) and part.startswith(("constrained", "function-")))


def _value(value: Any) -> str:
    return short(f"'{value}'" if isinstance(value, str) else value)


def layout_in(path: Path) -> Layout:
    """The layout that a dataset file declares.

    Raises:
        BadInput: as for ``read_dataset_file``; or its name could be no folder's.
    """
    spec = read_dataset_file(path)
    name = spec.name or path.name.removesuffix(".toml")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name):
        raise BadInput(
            f"dataset file '{path}': name: got '{short(name)}', expected letters, digits, '-' and '_' (a folder below "
            "runs/ has it): add name = another"
        )
    recipe = spec.recipe
    if recipe is not None and recipe.endswith(".toml"):
        recipe = str(path.parent / recipe)
    splits = ("train", "val", "test") if "test" in spec.split else ("train", "val")
    opened = functools.partial(open_declared, spec, name, path.parent)
    unlabelled = functools.partial(declared_unlabelled, spec, name, path.parent)
    return Layout(name, opened, holds="", recipe=recipe, splits=splits, file=path, unlabelled=unlabelled)


def open_declared(spec: DatasetFile, name: str, folder: Path, root: Path | None, split: str) -> SegmentationDataset:
    """Open a split of what a dataset file declares.

    Args:
        folder: of the file.
        root: in place of the file's own.

    Raises:
        BadInput: its paths lead nowhere, or files have no partner.
    """
    from kdbench.data.listing import open_listed

    return open_listed(spec, name, root or _own_root(spec, folder), split)


def declared_unlabelled(spec: DatasetFile, name: str, folder: Path, root: Path | None) -> list[Path] | None:
    """The images without labels that a dataset file names; None where it names none.

    Args:
        folder, root: as of ``open_declared``.

    Raises:
        BadInput: its paths lead nowhere.
    """
    from kdbench.data.listing import listed_unlabelled

    return listed_unlabelled(spec, name, root or _own_root(spec, folder)) if spec.unlabelled else None


def _own_root(spec: DatasetFile, folder: Path) -> Path:
    own = folder / spec.root
    return own.resolve() if ".." in own.parts else own
