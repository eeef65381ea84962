"""How long a file may take in `kdbench predict`, and what is kept of a video whose model fails midway."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from kdbench.backends.onnx_file import OnnxFile
from kdbench.errors import RunFailed
from kdbench.machine import apart
from kdbench.predict.images import Predictor, open_file_predictor
from kdbench.predict.video import predict_video
from tests.onnx_models import nchw_logits
from tests.test_predict import write_clip


def let_answers_take(session, seconds, monkeypatch):
    """A clock by which each answer of a session comes after so many seconds, and is looked for once before."""
    clock, looks, poll = [0.0], [], session._apart._connection.poll

    def late(timeout):
        clock[0] += seconds / 2
        looks.append(timeout)
        return len(looks) % 2 == 0 and poll(60)

    monkeypatch.setattr(apart, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(session._apart._connection, "poll", late)


def test_each_image_has_the_time_anew(tmp_path, monkeypatch):
    image = np.zeros((8, 8, 3), np.uint8)
    with open_file_predictor(nchw_logits(tmp_path / "theirs.onnx"), limit_s=300) as predictor:
        let_answers_take(predictor.backend._session, 200, monkeypatch)
        assert [predictor.class_map(image).shape for _ in range(5)] == [(8, 8)] * 5
        let_answers_take(predictor.backend._session, 700, monkeypatch)
        with pytest.raises(RunFailed, match="gave no answer within 300 s"):
            predictor.class_map(image)


def test_elsewhere_the_time_is_for_all_answers(tmp_path, monkeypatch):
    file = OnnxFile.open(nchw_logits(tmp_path / "theirs.onnx"), limit_s=300)
    let_answers_take(file._session, 200, monkeypatch)
    batch = file.prepare(np.zeros((8, 8, 3), np.uint8))
    file.infer(batch)
    with pytest.raises(RunFailed, match="gave no answer within 300 s"):
        file.infer(batch)


class FailsAfter:
    """A backend of 64 x 96 pixels whose masks are zeros, so many times."""

    output, size = "mask", (64, 96)

    def __init__(self, frames):
        self.left = frames

    def prepare(self, image):
        return image[None]

    def infer(self, batch):
        self.left -= 1
        if self.left < 0:
            raise RunFailed("'theirs.onnx' gave no answer within 300 s")
        return np.zeros(batch.shape[:3], np.uint8)


def test_frames_before_a_failure_are_kept(tmp_path):
    cv2 = write_clip(tmp_path / "clip.mp4", 6)
    for frames, said in (
        (3, "within 300 s; the 3 frames before that are in '.*clip-overlay.mp4'$"),
        (0, "within 300 s$"),
    ):
        predictor = Predictor(FailsAfter(frames), ("road",), ((0, 0, 0),))
        with pytest.raises(RunFailed, match=said):
            predict_video(predictor, str(tmp_path / "clip.mp4"), tmp_path / str(frames))
    assert cv2.VideoCapture(str(tmp_path / "3" / "clip-overlay.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert not list(tmp_path.glob("0/*"))
