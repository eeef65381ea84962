"""TensorRT: an engine, built for one GPU or for the compute capabilities of several."""

from kdbench.formats.base import FORMATS, Format, Need

FORMATS.add(Format("trt", "TensorRT", "engine", needs=(Need("NNCF", "nncf", ("int8",)),)))
