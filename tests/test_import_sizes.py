"""How large an imported file may be: itself and the external data that it names, each counted once."""

from __future__ import annotations

import pytest

from exporters import wrap
from kdbench.backends.onnx_file import OnnxFile
from kdbench.backends.onnx_layout import Reading
from kdbench.data.normalisation import MEAN, STD
from kdbench.errors import BadInput
from tests.imports import Stranger


@pytest.mark.parametrize("external", [(), ("weights.bin",)], ids=["one file", "external data"])
def test_a_file_and_its_external_data_count_once_and_what_lies_beside_them_does_not(tmp_path, monkeypatch, external):
    options = {"save_as_external_data": True, "location": external[0], "size_threshold": 0} if external else {}
    path = Stranger().write(tmp_path / "theirs.onnx", **options)
    (tmp_path / "theirs.onnx.bak").write_bytes(bytes(10_000))
    size = sum((tmp_path / name).stat().st_size for name in ("theirs.onnx", *external))
    file = OnnxFile.open(path, Reading(mean=MEAN, std=STD))
    monkeypatch.setattr(wrap, "LARGEST", size)
    graph = wrap.prepared(file, path).graph
    assert [bool(constant.raw_data or constant.float_data) for constant in graph.initializer] == [True, True]
    monkeypatch.setattr(wrap, "LARGEST", size - 1)
    with pytest.raises(BadInput, match="theirs.onnx' has more than 2 GB, which one ONNX file cannot hold"):
        wrap.prepared(file, path)
