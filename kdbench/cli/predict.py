"""``kdbench predict``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.backends import BACKENDS, reference_of
from kdbench.cli.app import app
from kdbench.cli.options import (
    Dataset,
    Device,
    JsonFile,
    Runs,
    Variant,
    choose_device,
    deployable,
    json_result,
)
from kdbench.cli.reading import Bgr, FileSize, Mean, OutputLayout, OutputName, Range, Std, Threshold, make_reading
from kdbench.errors import BackendUnavailable, BadInput
from kdbench.machine.apart import LIMIT_S
from kdbench.runs.tree import PREDICTIONS, RunTree

if TYPE_CHECKING:
    from kdbench.predict.images import Predictor


@app.command(rebuilds=True, computes=True)
def predict(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Image files, and folders of them; an .onnx file in front is the model.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="One of {students}.")] = None,
    video: Annotated[str | None, typer.Option(help="A video file, or a camera's number, instead of images.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="One of {backend}. Default: torch; of an imported file onnx.")
    ] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Default: predictions/ beside the methods.")] = None,
    size: FileSize = None,
    mean: Mean = None,
    std: Std = None,
    range_: Range = None,
    bgr: Bgr = None,
    output_name: OutputName = None,
    output_layout: OutputLayout = None,
    threshold: Threshold = None,
    dataset: Dataset = None,
    runs: Runs = Path("runs"),
    variant: Variant = None,
    device: Device = "auto",
    timeout: Annotated[
        float, typer.Option(help="Seconds that an .onnx file may take for one image.", min=1, max=1e6)
    ] = LIMIT_S,
    json_file: JsonFile = None,
) -> None:
    """Segment images or a video: NAME-mask.png (class ids, dataset's colours) and NAME-overlay.png with a legend.

    A video becomes NAME-overlay.mp4; Ctrl-C ends a camera. Files go to a folder per method and backend by default,
    or to predictions/ beside the .onnx file, which needs nothing else.

    Examples:
      kdbench predict --method response --backend onnx photos/ street.jpg
      kdbench predict model.onnx street.jpg --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5
    """
    from kdbench.predict.images import open_file_predictor

    paths = list(images or [])
    model = paths.pop(0) if paths and paths[0].suffix == ".onnx" else None
    if (model is None) == (method is None):
        raise BadInput("kdbench predict: expected --method NAME, or an .onnx file before the images, and not both")
    if bool(paths) == bool(video):
        raise BadInput("kdbench predict: expected images, or --video FILE or camera number, and not both")
    flags = {
        "size": size, "mean": mean, "std": std, "range": range_, "bgr": bgr, "output_name": output_name,
        "output_layout": output_layout, "threshold": threshold,
    }  # fmt: skip
    if model is not None:
        for flag, given, its in (("--backend", backend, (None, "onnx")), ("--device", device, ("auto", "cpu"))):
            if given not in its:
                raise BadInput(
                    f"{flag}: got '{given}' for '{model}', an .onnx file as it is, which ONNX Runtime runs on the "
                    "processor: leave it out, or name a method that was exported or imported with --method"
                )
        folder = output_dir or model.parent / PREDICTIONS / model.stem
        run_predict(open_file_predictor(model, make_reading(**flags), timeout), paths, video, folder, json_file)
        return
    assert method is not None
    for flag, value in flags.items():
        if value is not None:
            raise BadInput(
                f"--{flag.replace('_', '-')}: expected with an .onnx file alone; a method's is that of its training "
                "or export"
            )
    tree = RunTree.find(runs, dataset, variant)
    backend = backend or reference_of(tree, method)[0]
    for flag, name, known in (("--method", method, deployable(tree)), ("--backend", backend, BACKENDS.names())):
        if name not in known:
            raise BadInput(f"{flag}: got '{name}', expected one of {', '.join(known)}")
    folder = output_dir or tree.predictions / f"{method}-{backend}"
    run_predict(_open_where_it_runs(tree, method, backend, device), paths, video, folder, json_file)


@contextmanager
def _open_where_it_runs(tree: RunTree, method: str, backend: str, device: str) -> Iterator[Predictor]:
    """Where "auto" finds a GPU that the backend does not run on, the processor, and one line that says so."""
    from kdbench.predict.images import open_predictor

    chosen = choose_device(device)
    with ExitStack() as stack:
        try:
            predictor = stack.enter_context(open_predictor(tree, method, backend, chosen))
        except BackendUnavailable as error:
            if device != "auto" or chosen == "cpu":
                raise
            predictor = stack.enter_context(open_predictor(tree, method, backend, "cpu"))
            print(f"note: --device auto takes the processor ({error})", file=sys.stderr)
        yield predictor


def run_predict(
    predictor_context: AbstractContextManager[Predictor],
    images: list[Path],
    video: str | None,
    folder: Path,
    json_file: str | None,
) -> None:
    from kdbench.predict.images import predict_images

    with json_result(json_file) as document, predictor_context as predictor:
        if isinstance(predictor.backend.details.get("assumption"), str):
            print(f"note: {predictor.backend.details['assumption']}", file=sys.stderr)
        if video:
            from kdbench.predict.video import predict_video

            film = predict_video(predictor, video, folder)
            document.update({**asdict(film), "path": film.path.as_posix()})
            print(film)
            return
        done = predict_images(predictor, images, folder)
        document.update(
            written=[dict(zip(("image", "mask", "overlay"), map(Path.as_posix, row), strict=True))
                     for row in done.written],
            problems=done.problems, warnings=done.warnings,
        )  # fmt: skip
        for image, mask, overlay in done.written:
            print(f"{image}: {mask}, {overlay}")
        for label, lines in (("warning", done.warnings), ("problem", done.problems)):
            for line in lines:
                print(f"{label}: {' '.join(line.split())}", file=sys.stderr)
        if done.problems:
            raise BadInput(
                f"{len(done.problems)} of the images could not be predicted, named above; {len(done.written)} were: "
                "mend or leave out the former"
            )
