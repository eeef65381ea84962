"""What ``kdbench regress`` times: which artifacts are held against each other, on which inputs, and by which outputs."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from kdbench.errors import BadInput
from kdbench.regress.artifact import Filter, find_artifacts, pair
from kdbench.regress.inputs import compare_outputs, make_inputs
from tests.conditions import missing
from tests.onnx_models import nchw_logits


class TestArtifacts:
    def test_a_runs_folder_has_a_cell_per_method_export_and_checkpoint(self, exported):
        found = {artifact.name: artifact for artifact in find_artifacts(exported.runs, Filter())}
        assert "baseline/torch-fp32/mask" in found
        assert found["baseline/onnx-fp32/logits"].dtype == "float32"
        if not missing("openvino", "nncf"):
            assert found["baseline/openvino-int8/mask"].backend == "openvino"
        assert found["feature/torch-fp32/mask"].shape == (1, 96, 128, 3)
        only = find_artifacts(exported.runs, Filter(backends=("onnx",), precisions=("int8",)))
        assert [artifact.name for artifact in only] == ["baseline/onnx-int8/mask"]

    @pytest.mark.needs("openvino")
    def test_an_export_folder_and_its_file_are_the_same_artifact(self, exported):
        file = exported.export("baseline", "openvino", "fp32", "mask")
        (folder,), (alone,) = find_artifacts(file.parent, Filter()), find_artifacts(file, Filter())
        assert (folder.path, folder.backend, folder.shape) == (alone.path, alone.backend, alone.shape)

    def test_artifacts_of_several_datasets_and_variants_are_paired_with_their_own(self, exported, tmp_path):
        export = exported.export("baseline", "onnx", "fp32", "mask").parent
        for where in ("shapes", "shapes/labelled=0.5", "camvid"):
            shutil.copytree(export, tmp_path / where / "baseline/exports" / export.name)
        sides = [find_artifacts(tmp_path, Filter(outputs=("mask",))) for _ in range(2)]
        cells = pair(*sides, ("a", "b"))
        assert [left.name for left, _ in cells] == [
            "camvid/baseline/onnx-fp32/mask", "shapes/baseline/onnx-fp32/mask",
            "shapes/labelled=0.5/baseline/onnx-fp32/mask",
        ]  # fmt: skip
        assert all(left.path == right.path for left, right in cells)
        # One side alone has several: the other's must be the namesake of its own folder.
        fewer = [artifact for artifact in sides[0] if artifact.within.name == "shapes"]
        ((left, right),) = pair(fewer, sides[1], ("a", "b"))
        assert left.path == right.path
        with pytest.raises(BadInput, match=r"lacks camvid/baseline/onnx-fp32/mask, shapes/labelled=0.5/baseline"):
            pair(sides[0], fewer, ("a", "b"))

    def test_a_methods_folder_is_paired_with_that_of_another_variant(self, exported, tmp_path):
        export = exported.export("baseline", "onnx", "fp32", "mask").parent
        for method in ("old/shapes/baseline", "new/shapes/labelled=0.5/baseline"):
            shutil.copytree(export, tmp_path / method / "exports" / export.name)
        found = [
            find_artifacts(tmp_path / folder, Filter())
            for folder in ("old/shapes", "old/shapes/baseline", "old/shapes/baseline/exports", "new")
        ]
        assert [side[0].within.as_posix() for side in found] == [".", ".", ".", "shapes/labelled=0.5"]
        names = [[left.name for left, _ in pair(found[0], side, ("a", "b"))] for side in found]
        assert names == [["baseline/onnx-fp32/mask", "baseline/onnx-fp32/logits"]] * len(found)

    def test_single_files_are_paired_whatever_their_names(self, tmp_path):
        files = [nchw_logits(tmp_path / f"{name}.onnx") for name in ("old", "new")]
        cells = pair(*(find_artifacts(file, Filter()) for file in files), ("a", "b"))
        assert len(cells) == 1

    def test_an_export_beside_a_loose_file_is_run_as_one(self, exported):
        file = exported.export("baseline", "onnx", "fp32", "mask")
        (cell,) = pair(
            find_artifacts(file.parent, Filter(outputs=("mask",))), find_artifacts(file, Filter()), ("a", "b")
        )
        assert [side.backend for side in cell] == ["onnx-file", "onnx-file"]


class TestInputs:
    def test_images_in_the_inputs_own_layout(self):
        uint8, _ = make_inputs((1, 64, 96, 3), "uint8", [], 0)
        assert (uint8.shape, uint8.dtype) == ((8, 1, 64, 96, 3), np.uint8)
        floats, _ = make_inputs((2, 3, 64, 96), "float32", [], 0)
        assert (floats.shape, floats.dtype) == ((8, 2, 3, 64, 96), np.float32)
        assert abs(floats.mean()) < 1.5
        assert not np.array_equal(floats[0], floats[1])
        assert not np.array_equal(floats[0, 0], floats[0, 1])

    def test_noise_for_what_is_no_image(self):
        noise, what = make_inputs((1, 10), "float32", [], 0)
        assert noise.shape == (8, 1, 10)
        assert noise.std() > 0.5
        assert "noise" in what
        tokens, _ = make_inputs((1, 7), "int64", [], 0)
        assert set(np.unique(tokens)) == {0, 1}


class TestOutputs:
    def test_classes_may_differ_on_one_pixel_in_a_thousand(self):
        a = np.zeros((1, 100, 100), np.uint8)
        b = a.copy()
        b[0, 0, :10] = 1
        assert compare_outputs([a], [b]) == (True, "the same class on 99.900% of pixels")
        b[0, 1, 0] = 1
        assert not compare_outputs([a], [b])[0]

    def test_logits_by_their_largest_class(self):
        a = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
        assert compare_outputs([a], [a * 3 + 1], (1, 3, 8, 8))[0]
        assert not compare_outputs([a], [-a], (1, 3, 8, 8))[0]
        assert not compare_outputs([a], [np.full_like(a, np.nan)], (1, 3, 8, 8))[0]

    def test_classes_behind_height_and_width(self):
        """By height the largest stays; by class another one does."""
        a = np.random.default_rng(0).normal(size=(1, 8, 6, 4)).astype(np.float32)
        turned = a[..., ::-1] + 100 * np.arange(8).reshape(1, 8, 1, 1).astype(np.float32)
        assert compare_outputs([a], [a * 3 + 1], (1, 3, 8, 6))[0]
        assert not compare_outputs([a + turned * 0], [turned], (1, 8, 6, 3))[0]

    def test_what_may_be_two_layouts_is_compared_by_its_numbers(self):
        a = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
        assert not compare_outputs([a], [a * 3 + 1], (1, 3, 8, 8))[0]
        assert "of the outputs' range" in compare_outputs([a], [a], (1, 3, 8, 8))[1]

    def test_shapes(self):
        assert compare_outputs([np.zeros((1, 2))], [np.zeros((1, 3))]) == (False, "shapes differ: 1x2 and 1x3")
