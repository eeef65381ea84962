"""int8: Q/DQ nodes around the operators that are to run in 8 bits, with ranges from real training images.

Three engines, three quantisers, because each fuses other patterns:

ONNX Runtime  its own quantiser: every operator between Q/DQ pairs, asymmetric uint8 activations, percentile ranges
TensorRT      NNCF on the ONNX graph: symmetric (all zero points 0), float after the last layer
OpenVINO      NNCF on its own graph: the same, and activations that are not symmetric get zero points

In all of them weights are int8 per channel, and the layers named in ``keep_float`` stay as they are. Layers have the
names of PyTorch's modules; ``layer_names`` gives them to the ONNX nodes.

On processors weights are −64 … 64, half of what int8 holds. x86 without VNNI instructions adds the products of two
uint8 activations and two int8 weights in 16 bits and cuts off what does not fit; 2 * 255 * 64 fits, so that a file is
the same model on every processor (ONNX Runtime's "reduce_range", NNCF's OverflowFix; ``benchmarks.int8_processors``).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from exporters.image_bytes import fold_normalisation, overrides, read_bytes
from exporters.layer_names import LAYER_OPERATORS, name_unnamed, nodes_named
from kdbench.backends.onnx_runtime import configure
from kdbench.data.spread import spread_indices
from kdbench.errors import BackendUnavailable
from kdbench.machine.cores import answer_threads
from kdbench.machine.scratch import ScratchFolder

CALIBRATION_IMAGES = 120
SHARE_INSIDE = 0.9999
"""Share of activations inside ONNX Runtime's ranges; its default, the extremes, lost 1 to 2 points of mIoU here."""
PERCENTILE_IMAGES = 32
"""Images for the percentiles, of those given: they settle early, and a histogram of each tensor is slow."""
STRIDE = 8
"""Images whose activations ONNX Runtime's calibrator holds in memory at once."""


def quantise_for_onnxruntime(
    source: Path, destination: Path, batches: Sequence[NDArray[Any]], keep_float: Sequence[str]
) -> None:
    """Write an int8 ONNX file for ONNX Runtime.

    Args:
        source: float32 ONNX file with one input, "image".
        batches: calibration inputs, each as the input takes it.
        keep_float: names of layers, which their nodes have too.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with ScratchFolder("quantise") as folder, _silence(), few_threads():
        prepared = Path(folder) / "prepared.onnx"
        # ONNX's own shapes are enough; the symbolic ones that it would look for first fail where the batch is open.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(prepared)
        name_unnamed(model.graph)
        excluded = {*_with_producers(model.graph, keep_float), *_after_last_layer(model.graph)}
        zero_point = fold_normalisation(model, but_not_into=excluded)
        onnx.save(model, prepared)
        options: dict[str, Any] = {"CalibPercentile": 100 * SHARE_INSIDE, "CalibStridedMinMax": STRIDE}
        if zero_point is not None:
            options["TensorQuantOverrides"] = overrides(zero_point)
        quantize_static(
            prepared, destination, _CalibrationReader(batches), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=sorted(excluded),
            calibrate_method=CalibrationMethod.Percentile, reduce_range=True, extra_options=options,
        )  # fmt: skip
    if zero_point is not None:
        model = onnx.load(destination)
        read_bytes(model)
        onnx.save(model, destination)


def quantise_for_tensorrt(
    source: Path, destination: Path, batches: Sequence[NDArray[Any]], keep_float: Sequence[str]
) -> None:
    """Write an int8 ONNX file for TensorRT; arguments as ``quantise_for_onnxruntime``."""
    import onnx

    nncf = import_nncf()
    model = onnx.load(source)
    name_unnamed(model.graph)
    kept = nodes_named(keep_float, (node.name for node in model.graph.node))
    ignored = nncf.IgnoredScope(names=[*kept, *_after_last_layer(model.graph)], validate=False)
    with _silence(), few_threads():
        quantised = nncf.quantize(
            model, nncf.Dataset(batches, lambda batch: {"image": batch}), ignored_scope=ignored,
            subset_size=len(batches), preset=nncf.QuantizationPreset.PERFORMANCE,
        )  # fmt: skip
    onnx.save(quantised, destination)


def quantise_for_openvino(model: Any, batches: Sequence[NDArray[Any]], keep_float: Sequence[str]) -> Any:
    """An int8 ``openvino.Model`` from a float32 one; arguments as ``quantise_for_onnxruntime``."""
    nncf = import_nncf()
    ignored = nncf.IgnoredScope(
        names=[*_openvino_nodes(model, keep_float), *_after_last_openvino_layer(model)], validate=False
    )
    with _silence():
        return nncf.quantize(
            model, nncf.Dataset(batches), ignored_scope=ignored, subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )  # fmt: skip


def import_nncf() -> Any:
    """The NNCF module.

    Raises:
        BackendUnavailable: it is not installed.
    """
    with _silence():
        try:
            import nncf
        except ImportError as error:
            raise BackendUnavailable(f"int8: NNCF cannot be imported ({error}): `pip install nncf`") from error
    return nncf


def percentile_images(count: int) -> list[int]:
    """Which of so many calibration images ONNX Runtime's ranges are of; it wants a multiple of its stride."""
    most = min(count, PERCENTILE_IMAGES)
    return spread_indices(count, most // STRIDE * STRIDE or most)


class _CalibrationReader:
    """What ONNX Runtime's quantiser reads from; its own base class adds nothing."""

    def __init__(self, batches: Sequence[NDArray[Any]]) -> None:
        chosen = [batches[index] for index in percentile_images(len(batches))]
        count = max(STRIDE, len(chosen))  # fewer are repeated
        self._batches = [chosen[i % len(chosen)] for i in range(count)]
        self._position, self._end = 0, count

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._position, self._end = start_index, end_index

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        if self._position >= self._end:
            return None
        self._position += 1
        return {"image": self._batches[self._position - 1]}


def _with_producers(graph: Any, layers: Sequence[str]) -> list[str]:
    """The nodes of the layers, and every node back to those that make their inputs.

    ONNX Runtime's quantiser rounds a tensor behind the node that makes it: a layer whose producer is quantised would
    compute in float on an input of 8 bits. A way back ends at another layer, which computes in float as well, and at a
    LayerNormalization: what is before that is the sum of everything so far, where a transformer would end up in float.
    """
    maker = {output: node for node in graph.node for output in node.output}
    excluded = set(nodes_named(layers, (node.name for node in graph.node)))
    waiting = [maker[node.input[0]] for node in graph.node if node.name in excluded and node.input[0] in maker]
    while waiting:
        node = waiting.pop()
        if node.name not in excluded:
            excluded.add(node.name)
            if node.op_type not in (*LAYER_OPERATORS, "LayerNormalization"):
                waiting += [maker[name] for name in node.input if name in maker]
    return sorted(excluded)


def _after_last_layer(graph: Any) -> list[str]:
    """Names of the nodes behind the last layer: upsampling and argmax gain nothing from 8 bits, and lose accuracy."""
    last = [node for node in graph.node if node.op_type in LAYER_OPERATORS][-1]
    reached, names = set(last.output), []
    for node in graph.node:
        if any(name in reached for name in node.input):
            reached |= set(node.output)
            names.append(node.name)
    return names


OPENVINO_LAYERS = (
    "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul",
)  # fmt: skip


def _after_last_openvino_layer(model: Any) -> list[str]:
    last = [op for op in model.get_ordered_ops() if op.get_type_name() in OPENVINO_LAYERS][-1]
    waiting, names = [last], set[str]()
    while waiting:
        for output in waiting.pop().outputs():
            for target in output.get_target_inputs():
                node = target.get_node()
                if node.get_friendly_name() not in names and node.get_type_name() != "Result":
                    names.add(node.get_friendly_name())
                    waiting.append(node)
    return sorted(names)


def _openvino_nodes(model: Any, layers: Sequence[str]) -> list[str]:
    """Friendly names of the operators of the layers.

    The frontend splits a layer with a bias into two operators. The one that multiplies is called
    "<name>/WithoutBiases", or in a transposed convolution by a number; the Add has the layer's name.
    """
    operators = model.get_ordered_ops()
    names = nodes_named(layers, (operator.get_friendly_name() for operator in operators))
    sums = [op for op in operators if op.get_type_name() == "Add" and op.get_friendly_name() in names]
    multiplied = [op.input_value(0).get_node() for op in sums]
    return names + [op.get_friendly_name() for op in multiplied if op.get_type_name() in OPENVINO_LAYERS]


@contextlib.contextmanager
def few_threads() -> Iterator[None]:
    """Quantisers open ONNX Runtime sessions of their own, with a spinning thread per core: here with few that sleep."""
    import onnxruntime

    class FewThreads(onnxruntime.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            configure(self, threads=answer_threads(), spinning=False)

    before, onnxruntime.SessionOptions = onnxruntime.SessionOptions, FewThreads
    try:
        yield
    finally:
        onnxruntime.SessionOptions = before


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Quantisers print progress bars, warn of deprecations among themselves, and log at INFO; ours is one line."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(_Nothing()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


class _Nothing:
    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False


def calibration_images(count: int) -> list[int]:
    """Indices of evenly spaced training images, at most ``CALIBRATION_IMAGES`` of ``count``."""
    return spread_indices(count, CALIBRATION_IMAGES)
