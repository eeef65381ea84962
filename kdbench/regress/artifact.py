"""What the gate can time, and how the artifacts of two sides are paired."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbench.backends import BACKENDS
from kdbench.data.normalisation import IMAGENET, Input
from kdbench.data.preprocessing import Size
from kdbench.errors import BadInput, Missing
from kdbench.formats import FORMATS, PRECISIONS, companions, format_of
from kdbench.methods.base import METHODS
from kdbench.runs.files import sha256
from kdbench.runs.tree import RunTree, sidecar_path

OUTPUTS = ("mask", "logits")
UNNAMED_SIDES = 512
"""Height and width for an input that leaves them open."""
CHECKOUT = Path(__file__).resolve().parents[2]
"""The source tree that this kdbench runs from."""


@dataclass(frozen=True)
class Artifact:
    """One file and how it is run.

    Attributes:
        name: what both sides of a cell share, for example "baseline/onnx-fp32/mask".
        within: where in the folder that was searched its method's folder lies, for example "camvid/labelled=0.25".
        backend: a backend of kdbench, or "onnx-file" for an ONNX file on its own.
        output: for a checkpoint, which can give both.
        shape, dtype: of its input, batch first.
        input: how a float input is normalised.
        checkout: the source tree whose kdbench runs it.
        shown: the path as a person gave it, for messages and the report.
        notes: what was assumed about it, for a person to check.
    """

    name: str
    path: Path
    backend: str
    output: str | None
    shape: tuple[int, ...]
    dtype: str
    shown: str
    checkout: Path = CHECKOUT
    within: Path = Path()
    input: Input = IMAGENET
    notes: tuple[str, ...] = ()

    def spec(self) -> dict[str, Any]:
        """What ``worker.py`` needs to run it."""
        return {
            "artifact": str(self.path.absolute()), "backend": self.backend, "output": self.output,
            "checkout": str(self.checkout),
        }  # fmt: skip

    def about(self) -> dict[str, Any]:
        """For the report: which bytes."""
        size = sum(file.stat().st_size for file in (self.path, *companions(self.path)))
        return {"path": self.shown, "sha256": sha256(self.path), "bytes": size}


@dataclass(frozen=True)
class Filter:
    """Which of a folder's artifacts to take; empty = all."""

    methods: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def keeps(self, method: str, backend: str, precision: str, output: str) -> bool:
        return all(
            not wanted or found in wanted
            for wanted, found in (
                (self.methods, method), (self.backends, backend), (self.precisions, precision), (self.outputs, output),
            )
        )  # fmt: skip


def find_artifacts(path: Path, wanted: Filter, size: Size | None = None) -> list[Artifact]:
    """What a path names: one file; or the artifacts in an export folder, a method's folder, or a tree of runs.

    Args:
        size: (H, W) of an .onnx file that leaves them open; nothing else has a choice.

    Raises:
        Missing, BadInput: there is none, or one that cannot be timed.
    """
    if path.is_file():
        if path.suffix == ".json":
            raise BadInput(
                f"'{path}' is a file of numbers, expected an artifact (.onnx, an export, a checkpoint): stored "
                "milliseconds are no baseline, both sides are measured in the same run"
            )
        found = [_file(path, size)]
        if size is not None and size not in (found[0].shape[1:3], found[0].shape[2:4]):
            raise BadInput(f"--size: got {size[0]}x{size[1]}, '{path}' takes {_shown(found[0])}: leave it out")
        return found
    if not path.is_dir():
        raise Missing(
            f"'{path}' does not exist, expected an .onnx file, a checkpoint, an export folder or a runs folder"
        )
    folders = [folder for folder in (path, *sorted(path.rglob("*"))) if folder.is_dir()]
    found = [
        replace(artifact, within=_within(path, folder)) for folder in folders for artifact in _in_folder(folder, wanted)
    ]
    if not found:
        raise Missing(
            f"'{path}' holds nothing to time, expected exports or checkpoints (that the options leave): make them with "
            "`kdbench export`"
        )
    return found


def _within(searched: Path, folder: Path) -> Path:
    """Where below ``searched`` the method's folder lies that is ``folder`` or has it among its exports."""
    methods = folder.absolute() if folder.name in METHODS else folder.absolute().parents[1]
    root = searched.absolute()
    return methods.parent.relative_to(root) if methods.is_relative_to(root) and methods != root else Path()


def _in_folder(folder: Path, wanted: Filter) -> list[Artifact]:
    found = []
    name, _, precision = folder.name.rpartition("-")  # a format's name may have hyphens of its own
    if name in FORMATS and precision in PRECISIONS:
        method = folder.absolute().parents[1].name
        for output in OUTPUTS:
            file = folder / f"{output}.{FORMATS[name].suffix}"
            for backend in _backends_for(name, wanted) if file.is_file() else ():
                if wanted.keeps(method, backend, precision, output):
                    found.append(_export(file, f"{method}/{backend}-{precision}/{output}", name, backend))
    elif folder.name in METHODS:
        checkpoint = RunTree(folder.parent.parent, folder.parent.name).checkpoint(folder.name)
        for backend in _backends_for(None, wanted) if checkpoint.is_file() else ():
            if wanted.keeps(folder.name, backend, "fp32", "mask"):
                found.append(_checkpoint(checkpoint, f"{folder.name}/{backend}-fp32/mask", backend))
    return found


def _backends_for(loads: str | None, wanted: Filter) -> list[str]:
    """The backends that time an export of a format, or a checkpoint: those asked for, else the first that there is."""
    able = [backend.name for backend in BACKENDS if backend.loads == loads]
    return [name for name in able if name in wanted.backends] if wanted.backends else able[:1]


def _file(path: Path, size: Size | None) -> Artifact:
    if path.suffix == ".onnx":
        return _onnx_file(path, size)
    if (known := format_of(path)) is not None and (able := _backends_for(known.name, Filter())):
        return _export(path, "", known.name, able[0])
    if path.suffix == ".safetensors":
        return _checkpoint(path, "", "torch")
    exports = ", ".join(f".{known.suffix} ({known.title})" for known in FORMATS)
    raise BadInput(
        f"'{path}' ends in '{path.suffix}', expected {exports}, .safetensors (a checkpoint), or a folder of these"
    )


def _export(path: Path, name: str, export_format: str, backend: str) -> Artifact:
    from kdbench.backends.exported import read_export

    sidecar = read_export(path, export_format, None)
    return _ours(path, name, backend, sidecar["output"], sidecar)


def _checkpoint(path: Path, name: str, backend: str) -> Artifact:
    from kdbench.runs.sidecar import read_checkpoint_sidecar

    sidecar = read_checkpoint_sidecar(sidecar_path(path), "kdbench train")
    return _ours(path, name, backend, "mask", sidecar)


def _ours(path: Path, name: str, backend: str, output: str, sidecar: dict[str, Any]) -> Artifact:
    height, width = sidecar["size"]
    shape, dtype = ((1, height, width, 3), "uint8") if output == "mask" else ((1, 3, height, width), "float32")
    return Artifact(name, path, backend, output, shape, dtype, path.as_posix(), input=Input.recorded(sidecar))


def _onnx_file(path: Path, size: Size | None) -> Artifact:
    import onnx

    from kdbench.backends.onnx_file import check_file
    from kdbench.backends.onnx_metadata import read_metadata

    check_file(path)
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    weights = {initializer.name for initializer in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise BadInput(f"'{path}' has {len(inputs)} inputs ({names}), expected one")
    tensor = inputs[0].type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    sides = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
    # An open batch is one, other open sides are those of an image.
    opened = iter(size or ())
    shape = tuple(side or (1 if index == 0 else next(opened, UNNAMED_SIDES)) for index, side in enumerate(sides))
    own = (read_metadata({entry.key: entry.value for entry in model.metadata_props}, path) or {}).get("normalisation")
    notes = []
    if 0 in sides[1:] and size is None:
        notes.append(f"'{path}' leaves its size open: timed at {'x'.join(map(str, shape))} (--size)")
    if str(dtype).startswith("float") and len(shape) == 4 and own is None:
        notes.append(f"'{path}' does not say how images are normalised: it is fed with ImageNet's mean and deviation")
    if len(graph.output) > 1:
        names = ", ".join(f"'{value.name}'" for value in graph.output)
        notes.append(f"'{path}' has {len(graph.output)} outputs, {names}: all are computed, the first is compared")
    wanted = Input.recorded({"input": own} if own else {})
    return Artifact("", path, "onnx-file", None, shape, str(dtype), path.as_posix(), input=wanted, notes=tuple(notes))


def pair(
    baseline: list[Artifact], candidate: list[Artifact], shown: tuple[str, str]
) -> list[tuple[Artifact, Artifact]]:
    """Cells: the artifacts of both sides that have the same name.

    Where a side has several of one name, of several data sets or variants, all are named by their folders as well.

    Raises:
        BadInput: the candidate lacks one of the baseline's, or the inputs of a cell differ: never a pass.
    """
    if len(baseline) == len(candidate) == 1:
        candidate = [replace(candidate[0], name=baseline[0].name)]
        if (
            "onnx-file" in (baseline[0].backend, candidate[0].backend)
            and baseline[0].path.suffix == candidate[0].path.suffix
        ):
            # An export beside a loose file: both as loose files, or one side would have kdbench's own call around it.
            baseline, candidate = ([replace(side[0], backend="onnx-file")] for side in (baseline, candidate))
    if any(len({artifact.name for artifact in side}) < len(side) for side in (baseline, candidate)):
        baseline, candidate = ([_named_by_folder(artifact) for artifact in side] for side in (baseline, candidate))
    ours = {artifact.name: artifact for artifact in candidate}
    lacking = [artifact.name for artifact in baseline if artifact.name not in ours]
    if lacking:
        raise BadInput(
            f"--candidate '{shown[1]}' lacks {', '.join(lacking)}, which --baseline '{shown[0]}' has, expected each of "
            "them: export it, or name what to compare with --method, --backend, --precision"
        )
    cells = [(artifact, ours[artifact.name]) for artifact in baseline]
    for left, right in cells:
        if (left.shape, left.dtype) != (right.shape, right.dtype):
            raise BadInput(
                f"the input of '{right.shown}' is {_shown(right)}, that of the baseline '{left.shown}' {_shown(left)}, "
                "expected the same: export both at one --size and --output"
            )
    return cells


def _named_by_folder(artifact: Artifact) -> Artifact:
    return replace(artifact, name=(artifact.within / artifact.name).as_posix())


def _shown(artifact: Artifact) -> str:
    return f"{'x'.join(map(str, artifact.shape))} {artifact.dtype}"
