"""``kdbench predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kdbench.artifacts import BACKENDS, STUDENT_METHODS, RunTree
from kdbench.cli.app import app
from kdbench.cli.options import Dataset, Device, Runs, choose_device
from kdbench.errors import BadInput


@app.command()
def predict(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(STUDENT_METHODS)}.")],
    images: Annotated[list[Path] | None, typer.Argument(help="Image files, and folders of them.")] = None,
    video: Annotated[str | None, typer.Option(help="A video file, or a camera's number, instead of images.")] = None,
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")] = "torch",
    output_dir: Annotated[Path | None, typer.Option(help="Default: predictions/ beside the methods.")] = None,
    dataset: Dataset = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
) -> None:
    """Segment images or a video: NAME-mask.png (class ids, dataset's colours) and NAME-overlay.png with a legend.

    A video becomes NAME-overlay.mp4; Ctrl-C ends a camera. Files go to a folder per method and backend by default.

    Example:
      kdbench predict --method response --backend onnx photos/ street.jpg
    """
    if bool(images) == bool(video):
        raise BadInput("kdbench predict: expected images, or --video FILE or camera number, and not both")
    for flag, name, known in (("--method", method, STUDENT_METHODS), ("--backend", backend, BACKENDS)):
        if name not in known:
            raise BadInput(f"{flag}: got '{name}', expected one of {', '.join(known)}")
    tree = RunTree.find(runs, dataset)
    folder = output_dir or tree.root / "predictions" / f"{method}-{backend}"
    run_predict(tree, method, backend, choose_device(device), images or [], video, folder)


def run_predict(
    tree: RunTree, method: str, backend: str, device: str, images: list[Path], video: str | None, folder: Path
) -> None:
    from kdbench.predict import open_predictor, predict_images

    with open_predictor(tree, method, backend, device) as predictor:
        if video:
            from kdbench.video import predict_video

            print(predict_video(predictor, video, folder))
            return
        done = predict_images(predictor, images, folder)
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
