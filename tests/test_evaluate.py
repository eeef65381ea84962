"""Evaluation through a backend: exact counts, order, overlap, and errors that do not hang."""

from __future__ import annotations

import importlib
import sys
import threading
import time

import numpy as np
import pytest

from kdbench.backends.base import Backend
from kdbench.comparison.evaluate import Evaluation, class_maps, evaluate
from kdbench.comparison.metrics import confusion_matrix, mean_iou
from kdbench.data import Sample, SegmentationDataset
from kdbench.errors import BadInput, RunFailed

CLASSES = 4


class Noise(SegmentationDataset):
    """Images whose red channel is a class map; labels are another one, with void pixels."""

    def __init__(self, count=20, size=(48, 64), broken=None, decode_seconds=0.0):
        super().__init__("noise", "val", [f"class {i}" for i in range(CLASSES)], [(0, 0, 0)] * CLASSES)
        self.count, self.shape, self.broken, self.decode_seconds = count, size, broken, decode_seconds

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(self.decode_seconds)
        if index == self.broken:
            raise BadInput(f"image 'noise{index}.png' cannot be decoded")
        rng = np.random.default_rng(index)
        image = rng.integers(0, CLASSES, (*self.shape, 3), dtype=np.uint8)
        label = rng.integers(0, CLASSES, self.shape, dtype=np.uint8)
        label[0] = 255
        return Sample(f"noise{index}", image, label)


class RedChannel(Backend):
    """An engine that returns the red channel, as a mask or as one-hot logits."""

    def __init__(self, output="mask", size=(48, 64), seconds=0.0, value=0.0):
        self.output, self.size, self.details = output, size, {"device": "test"}
        self.seconds, self.value = seconds, value

    def prepare(self, image):
        return image[None]

    def infer(self, batch):
        time.sleep(self.seconds)
        red = batch[..., 0]
        if self.output == "mask":
            return red
        return np.where(red[:, None] == np.arange(CLASSES)[None, :, None, None], 1.0, self.value).astype(np.float32)

    def close(self):
        pass


@pytest.mark.parametrize("output", ["mask", "logits"])
def test_counts_are_those_of_a_plain_loop(output):
    dataset = Noise()
    result = evaluate(RedChannel(output), dataset, keep_predictions=True)
    expected = [confusion_matrix(s.label, s.image[..., 0], CLASSES) for s in (dataset[i] for i in range(20))]
    assert (result.confusions == expected).all()
    assert result.miou == pytest.approx(mean_iou(sum(expected)))
    assert all((result.predictions[i] == dataset[i].image[..., 0]).all() for i in range(20))
    assert result.engine == {"device": "test"}


def test_predictions_are_scored_at_the_labels_resolution():
    dataset = Noise(count=2, size=(96, 128))
    result = evaluate(RedChannel(size=(48, 64)), dataset)
    assert result.confusions[0].sum() == 95 * 128  # every labelled pixel of the label's own size


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
def test_each_image_is_decoded_once_and_only_so_far_ahead(monkeypatch, count):
    """Of 2 images ahead the engine may see the third decoded beside its first one, and no more."""
    monkeypatch.setattr("kdbench.comparison.evaluate.AHEAD", 2)
    monkeypatch.setattr("kdbench.comparison.evaluate.DECODERS", 1)
    decoded, most, by = [], [], set()

    class Counted(Noise):
        def __getitem__(self, index):
            decoded.append(index)
            by.add(threading.get_ident())
            return super().__getitem__(index)

    class Counting(RedChannel):
        def infer(self, batch):
            time.sleep(0.005)  # whoever may decode, does
            most.append(len(decoded))
            return super().infer(batch)

    images = []
    result = evaluate(Counting(), Counted(count=count), on_image=lambda: images.append(len(most)))
    assert sorted(decoded) == list(range(count))
    assert all(seen <= index + 3 for index, seen in enumerate(most))
    assert images == list(range(1, count + 1))  # told after each
    assert (result.confusions.shape, result.confusions.dtype) == ((count, CLASSES, CLASSES), np.int64)
    assert len(by) == min(count, 1)


def test_what_was_not_asked_for_is_not_kept_and_time_is_told():
    started = time.perf_counter()
    result = evaluate(RedChannel(seconds=0.01), Noise(count=5))
    assert result.predictions == []
    assert 0.05 <= result.engine_seconds <= result.seconds <= time.perf_counter() - started
    plain = Evaluation(np.zeros((1, 2, 2), np.int64))
    assert (plain.predictions, plain.seconds, plain.engine_seconds, plain.engine) == ([], 0, 0, {})


def test_iou_per_class_is_of_all_images_together():
    found = Evaluation(np.array([[[3, 1], [0, 0]], [[1, 1], [2, 2]]]))
    np.testing.assert_allclose(found.iou_per_class, [4 / 8, 2 / 6])
    assert found.miou == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_a_failure_in_counting_stops_the_engine_soon(monkeypatch):
    monkeypatch.setattr("kdbench.comparison.evaluate.AHEAD", 2)
    seen = []

    class Slow(RedChannel):
        def infer(self, batch):
            time.sleep(0.01)
            seen.append(1)
            return super().infer(batch) + np.uint8(CLASSES)  # a class that the dataset lacks

    with pytest.raises(BadInput, match="expected 0 to 3: the model was trained for another set of classes"):
        evaluate(Slow(), Noise(count=200))
    assert len(seen) < 100


def test_a_failure_in_counting_while_outputs_wait_does_not_hang(monkeypatch):
    """One output may wait here, and does when counting fails: the engine's thread must be able to put the next one."""

    def fail_late(*_):
        time.sleep(0.1)
        raise BadInput("counted wrong")

    monkeypatch.setattr("kdbench.comparison.evaluate.AHEAD", 1)
    monkeypatch.setattr("kdbench.comparison.evaluate.confusion_matrix", fail_late)
    said = []

    def work():
        with pytest.raises(BadInput, match="counted wrong"):
            evaluate(RedChannel(), Noise())
        said.append("ended")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    assert said == ["ended"]


@pytest.mark.parametrize(("cores", "decoders", "ahead"), [(1, 1, 6), (3, 1, 6), (4, 2, 8), (16, 8, 20)])
def test_half_of_the_cores_decode_and_more_of_them_wait(monkeypatch, cores, decoders, ahead):
    name = "kdbench.comparison.evaluate"
    monkeypatch.setattr("kdbench.machine.cores.usable_cores", lambda: cores)
    monkeypatch.setattr(sys.modules["kdbench.comparison"], "evaluate", sys.modules[name])  # put back afterwards
    monkeypatch.delitem(sys.modules, name)
    fresh = importlib.import_module(name)
    assert [(type(found), found) for found in (fresh.DECODERS, fresh.AHEAD)] == [(int, decoders), (int, ahead)]


def test_class_maps_of_a_mask_and_of_logits():
    mask = np.array([[[0, 1, 2], [3, 3, 3]]], np.uint8)
    prediction, at_engine = class_maps(mask, (4, 3), "x")
    assert at_engine.tolist() == mask[0].tolist()
    assert prediction.tolist() == [[0, 1, 2]] * 2 + [[3, 3, 3]] * 2
    logits = np.moveaxis(np.eye(4, dtype=np.float32)[mask], -1, 1)
    for size, expected in (((2, 3), mask[0].tolist()), ((2, 6), [[0, 0, 1, 1, 2, 2], [3] * 6])):
        prediction, at_engine = class_maps(logits, size, "x")
        assert (prediction.dtype, at_engine.dtype) == (np.uint8, np.uint8)
        assert at_engine.tolist() == mask[0].tolist()
        assert prediction.tolist() == expected
    for value in (np.nan, np.inf, -np.inf):
        logits[0, 2, 1, 1] = value
        with pytest.raises(RunFailed) as caught:
            class_maps(logits, (2, 3), "shapes image 'a'")
        assert str(caught.value) == (
            "shapes image 'a': the engine returned NaN or infinite logits, expected finite ones"
        )


def test_logits_are_resized_before_the_argmax():
    logits = np.zeros((1, 2, 2, 2), dtype=np.float32)
    logits[0, 1, 0, 0] = 4.0
    logits[0, 0] = 1.0
    prediction, mask = class_maps(logits, (4, 4), "x")
    assert mask.tolist() == [[1, 0], [0, 0]]
    # Half-pixel bilinear weights of the corner: 1, 3/4, 1/4, 0 along each axis; class 1 wins above 1/4.
    weights = np.outer([1, 0.75, 0.25, 0], [1, 0.75, 0.25, 0])
    assert (prediction == (4 * weights > 1)).all()


def test_nan_logits_name_the_image():
    with pytest.raises(RunFailed, match="noise image 'noise0': the engine returned NaN or infinite logits"):
        evaluate(RedChannel("logits", value=float("nan")), Noise())


def test_a_broken_image_stops_with_its_name_and_leaves_no_thread():
    before = threading.active_count()
    with pytest.raises(BadInput, match="noise13.png"):
        evaluate(RedChannel(), Noise(broken=13))
    assert threading.active_count() == before


def test_an_engine_that_fails_leaves_no_thread():
    class Failing(RedChannel):
        def infer(self, batch):
            raise RuntimeError("engine died")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="engine died"):
        evaluate(Failing(), Noise())
    assert threading.active_count() == before


def test_decoding_hides_behind_the_engine():
    """Decoding takes 60% of the engine's time: one after the other the engine's share would be 62%, however often."""
    runs = [evaluate(RedChannel(seconds=0.02), Noise(count=40, decode_seconds=0.012)) for _ in range(3)]
    # The best of three: beside other work on two cores a thread may wait for its turn.
    assert max(run.engine_seconds / run.seconds for run in runs) > 0.8
