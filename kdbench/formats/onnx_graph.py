"""ONNX: one file with the graph, the weights, and what ``kdbench predict`` needs to know."""

from kdbench.formats.base import FORMATS, Format, Need

FORMATS.add(
    Format("onnx", "ONNX", "onnx", needs=(Need("ONNX", "onnx"), Need("ONNX Script", "onnxscript"))),
)
