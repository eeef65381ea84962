"""``kdbench predict --video``: a video file or a camera through a backend, frame by frame. OpenCV is optional."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.errors import BackendUnavailable, BadInput, RunFailed
from kdbench.predict.images import Predictor
from kdbench.predict.overlay import blend, with_legend
from kdbench.progress import progress_bar
from kdbench.runs.files import atomic_path

DEFAULT_RATE = 25.0
"""Frames a second of the written video where the source does not say its own, as many cameras do not."""


@dataclass(frozen=True)
class VideoResult:
    """What was written: frames, seconds of the whole loop and of the engine in it, and the frames announced."""

    path: Path
    frames: int
    seconds: float
    engine_seconds: float
    announced: int

    def __str__(self) -> str:
        text = (
            f"{self.path}: {self.frames} frames, {self.frames / self.seconds:.1f} frames/s with reading and writing, "
            f"{self.frames / self.engine_seconds:.1f} frames/s in the model"
        )
        return text + (f" ({self.announced} were announced)" if self.announced not in (0, self.frames) else "")


def predict_video(predictor: Predictor, source: str, folder: Path) -> VideoResult:
    """Write NAME-overlay.mp4: every frame blended with its class colours, above a legend of all classes.

    Ctrl-C ends it, and the only way to end a camera is that; frames up to then are kept. So are those before a
    failure of the model.

    Args:
        source: a video file, or a camera's number.

    Raises:
        BackendUnavailable: OpenCV is not installed. BadInput: no such video or camera, or no frame in it.
        RunFailed: the model hung, crashed or returned what means nothing; the message says what is kept.
    """
    cv2 = import_opencv()
    camera = source.isdecimal()
    if not camera and not Path(source).is_file():
        raise BadInput(f"--video: '{source}' does not exist, expected a video file or a camera's number such as 0")
    name = f"camera-{source}" if camera else Path(source).stem
    path = folder / f"{name}-overlay.mp4"
    with opened(cv2, source) as capture:
        announced = 0 if camera else max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        rate = capture.get(cv2.CAP_PROP_FPS)
        frames, engine_seconds, writer = 0, 0.0, None
        failure: RunFailed | None = None
        started = time.perf_counter()
        with atomic_path(path) as temporary, progress_bar(f"predict {name}", announced or None) as bar:
            try:
                for image in rgb_frames(capture):
                    before = time.perf_counter()
                    class_map = predictor.class_map(image)
                    engine_seconds += time.perf_counter() - before
                    picture = blend(image, class_map, predictor.palette)
                    picture = with_legend(picture, dict(enumerate(predictor.classes)), predictor.palette)
                    writer = writer or open_writer(cv2, temporary, rate, picture)
                    writer.write(np.ascontiguousarray(picture[..., ::-1]))
                    frames += 1
                    bar.advance(1, f"{frames / (time.perf_counter() - started):.1f} frames/s")
            except KeyboardInterrupt:
                pass
            except RunFailed as error:
                if not frames:
                    raise
                failure = error
            finally:
                if writer is not None:
                    writer.release()
            if not frames:
                raise BadInput(f"--video: '{source}' gave no frame: check that a video player shows it")
        if failure is not None:
            raise RunFailed(f"{failure}; the {frames} frames before that are in '{path}'") from failure
        return VideoResult(path, frames, time.perf_counter() - started, engine_seconds, announced)


def rgb_frames(capture: Any) -> Iterator[NDArray[np.uint8]]:
    """H x W x 3 RGB, to the end; OpenCV has BGR."""
    while True:
        ok, frame = capture.read()
        if not ok:
            return
        yield np.ascontiguousarray(frame[..., ::-1])


def open_writer(cv2: Any, path: Path, rate: float, picture: NDArray[np.uint8]) -> Any:
    """An MPEG-4 writer for pictures of this size; ``rate`` in frames a second, 0 when the source does not say.

    Raises:
        RunFailed: this OpenCV was built without it.
    """
    rate = rate if 0 < rate <= 1000 else DEFAULT_RATE
    size = (picture.shape[1], picture.shape[0])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        raise RunFailed("--video: this OpenCV cannot write MPEG-4, `pip install opencv-python-headless` gives one")
    return writer


def import_opencv() -> Any:
    # Its decoders would print lines of their own beside ours.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise BackendUnavailable(
            "--video: OpenCV is not installed: `pip install opencv-python-headless` (kdbench's extra `video`)"
        ) from error
    return cv2


@contextmanager
def opened(cv2: Any, source: str) -> Iterator[Any]:
    """A video file or camera, released at the end of the block.

    Raises:
        BadInput: it cannot be opened.
    """
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    try:
        if not capture.isOpened():
            what = "no camera of this number answers" if source.isdecimal() else "this OpenCV cannot decode it"
            raise BadInput(f"--video: got '{source}', {what}: expected a video file such as .mp4, or another number")
        yield capture
    finally:
        capture.release()
