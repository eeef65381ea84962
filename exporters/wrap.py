"""Graph surgery: an ONNX file from elsewhere becomes one that takes images and returns masks as ours do.

    1 x H x W x 3 uint8 RGB → Cast, Transpose, channels turned, normalised → network → Resize, ArgMax → 1 x H x W uint8

What is put before and behind comes from how the file was read (``OnnxFile``). The network's own nodes stay as they are,
but for float16, which becomes float32, and outputs that are not used. Its names get a prefix, so that none can collide.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from exporters.float32 import in_float32
from exporters.graph import INPUT, remove_unused
from exporters.layer_names import LAYER_OPERATORS
from kdbench.backends.onnx_file import OnnxFile, external_files
from kdbench.backends.onnx_runtime import INTEGER_OPERATORS
from kdbench.errors import BadInput, one_line

OLDEST_OPSET, OLDEST_IR = 13, 8
"""Older files are brought up to these: 8 bits per channel need them."""
RESIZE_SAYS_HOW = 11
"""The opset from which Resize says which pixels it takes; before, there was one way, that onnx's converter forgets."""
LARGEST = 2**31
"""Bytes of a model, its external data included: what is wrapped is one file."""
PREFIX = "net."
"""Of names of the network."""
BORDER = "border."
"""Of names of what is put around it; nodes so named stay in float32."""


def wrap(file: OnnxFile, path: Path, output: str) -> Any:
    """An ``onnx.ModelProto`` around the network of a file, with a static size and a batch of 1.

    Args:
        file: ``path`` as it was read.
        output: "mask", or "logits": 1 x 3 x H x W float32, normalised → 1 x C x H x W float32.

    Raises:
        BadInput: the file has no such output, is quantised already, or onnx cannot take it apart.
    """
    import onnx

    if output == "logits" and (file.result.form == "ids" or file.dtype == np.uint8):
        lacking = "returns class ids" if file.result.form == "ids" else "takes 8-bit images"
        raise BadInput(f"--output logits: '{path}' {lacking}, expected floats there: use --output mask")
    network = prepared(file, path)
    opset = next(entry.version for entry in network.opset_import if entry.domain == "")
    before, behind = _before(file, output), _behind(file, output)
    entry, result = network.graph.input[0], network.graph.output[0]
    try:
        joined = onnx.compose.merge_models(
            before.model(opset, network.ir_version, _value(INPUT, *_image(file, output)), entry),
            network, [(before.current, entry.name)],
        )  # fmt: skip
        joined = onnx.compose.merge_models(
            joined, behind.model(opset, network.ir_version, result, _returned(file, output)),
            [(result.name, "scores")],
        )  # fmt: skip
        joined.graph.doc_string = ""
        del joined.opset_import[:]  # onnx lists each domain once for every part
        joined.opset_import.extend(network.opset_import)
        bypass_identities(joined.graph)
        remove_unused(joined.graph)
        name_layers(joined.graph)
        onnx.checker.check_model(joined, full_check=True)
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BadInput(f"'{path}': nothing can be put around its graph ({one_line(error, 300)})") from error
    return joined


def prepared(file: OnnxFile, path: Path) -> Any:
    """The network alone: its image in, one output, sizes that are numbers, float32, names with a prefix."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    files = (path, *(path.parent / name for name in external_files(model)))
    if sum(entry.stat().st_size for entry in files) > LARGEST:
        raise BadInput(f"'{path}' has more than 2 GB, which one ONNX file cannot hold")
    onnx.load_external_data_for_model(model, str(path.parent))
    graph = model.graph
    quantised = [node.op_type for node in graph.node if node.op_type in (*INTEGER_OPERATORS, "QuantizeLinear")]
    if quantised:
        raise BadInput(f"'{path}' is quantised already ({quantised[0]}), expected floats: import the file before that")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OLDEST_OPSET)
    if opset < OLDEST_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OLDEST_OPSET)
        except (RuntimeError, ValueError) as error:  # the converter's own classes are not exported
            raise BadInput(
                f"'{path}' is of opset {opset}, and onnx cannot bring it to {OLDEST_OPSET} ({one_line(error, 200)}): "
                f"export it again with opset {OLDEST_OPSET} or newer"
            ) from error
        graph = model.graph
        if opset < RESIZE_SAYS_HOW:
            _resize_as_before(graph)
    for entry in model.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    model.ir_version = max(model.ir_version, OLDEST_IR)
    _initialise_constants(graph)
    constants = {constant.name for constant in graph.initializer}
    image = next(value for value in graph.input if value.name not in constants)
    result = next(value for value in graph.output if value.name == file.result.name)
    for values, kept in ((graph.input, image), (graph.output, result)):
        chosen = type(kept)()
        chosen.CopyFrom(kept)
        del values[:]
        values.append(chosen)
    del graph.value_info[:]  # of open sizes, which are numbers now
    in_float32(model)
    height, width = file.size
    _resize(graph.input[0], (1, height, width, 3) if file.channels_last else (1, 3, height, width))
    _resize(graph.output[0], file.result.shape)
    return onnx.compose.add_prefix(model, PREFIX)


def _resize_as_before(graph: Any) -> None:
    """Let converted nodes take the pixels that Upsample and Resize took before opset 11."""
    from onnx import helper

    for node in graph.node:
        told = {attribute.name for attribute in node.attribute}
        if node.op_type == "Resize" and "coordinate_transformation_mode" not in told:
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            if "nearest_mode" not in told:
                node.attribute.append(helper.make_attribute("nearest_mode", "floor"))


def _initialise_constants(graph: Any) -> None:
    """Turn Constant nodes into initializers, where weights are looked for, and leave out what Resize is not given.

    Paddle's exporter writes every weight as a Constant; PyTorch's of opset 11 gives Resize empty scales beside sizes,
    which are "not given" as long as they are constants: converters put a Cast behind them.
    """
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        if node.attribute[0].name == "value":
            constant = graph.initializer.add()
            constant.CopyFrom(node.attribute[0].t)
            constant.name = node.output[0]
            graph.node.remove(node)
    empty = {constant.name for constant in graph.initializer if 0 in constant.dims}
    for node in graph.node:
        if node.op_type == "Resize":
            for at, name in enumerate(node.input):
                node.input[at] = "" if name in empty else name


def bypass_identities(graph: Any) -> None:
    """Take out what the border adds where nothing is to be done: TensorRT takes 8 bits in a Cast alone."""
    ends = {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.name.startswith(BORDER)]:
        before, behind = node.input[0], node.output[0]
        if behind not in ends:
            kept, gone = before, behind
        elif any(before in other.output for other in graph.node):
            kept, gone = behind, before
        else:  # an input that is the output
            continue
        for other in graph.node:
            for names in (other.input, other.output):
                for at, name in enumerate(names):
                    if name == gone:
                        names[at] = kept
        graph.node.remove(node)


class _Chain:
    """Nodes in a row, each on the result of the one before."""

    def __init__(self, start: str) -> None:
        self.current = self.start = start
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *constants: Any, **attributes: Any) -> _Chain:
        """Append a node; further inputs are arrays, or None for one that is left out."""
        from onnx import helper, numpy_helper

        name = f"{BORDER}{self.start}.{len(self.nodes)}.{operator}"
        inputs = [self.current]
        for index, constant in enumerate(constants):
            inputs.append("" if constant is None else f"{name}.{index}")
            if constant is not None:
                self.constants.append(numpy_helper.from_array(constant, inputs[-1]))
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        self.current = name
        return self

    def model(self, opset: int, ir_version: int, entry: Any, result: Any) -> Any:
        """The chain as a model.

        Args:
            entry, result: ``ValueInfoProto`` of its two ends, whose names become the chain's.
        """
        from onnx import helper

        if not self.nodes:
            self.add("Identity")
        ends = []
        for value, name in ((entry, self.start), (result, self.current)):
            end = type(value)()
            end.CopyFrom(value)
            end.name = name
            ends.append(end)
        graph = helper.make_graph(self.nodes, "border", ends[:1], ends[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)

    def name_end(self, name: str) -> _Chain:
        """Let the last node's result have a name."""
        if not self.nodes:
            self.add("Identity")
        self.nodes[-1].output[0] = self.current = name
        return self


def _before(file: OnnxFile, output: str) -> _Chain:
    """From our image to the network's."""
    from onnx import TensorProto

    chain = _Chain(INPUT)
    if output == "logits":  # normalised already
        return chain.add("Transpose", perm=[0, 2, 3, 1]) if file.channels_last else chain.add("Identity")
    wanted, kept = file.input, file.dtype == np.uint8
    if kept and file.channels_last and not wanted.turns_channels:
        return chain.add("Identity")
    # TensorRT refuses a Transpose of uint8, so the cast comes first.
    chain.add("Cast", to=TensorProto.FLOAT)
    if not file.channels_last:
        chain.add("Transpose", perm=[0, 3, 1, 2])
    if wanted.turns_channels:
        chain.add("Gather", np.array([2, 1, 0], np.int64), axis=3 if file.channels_last else 1)
    if kept:
        return chain.add("Cast", to=TensorProto.UINT8)
    shape = (1, 1, 1, 3) if file.channels_last else (1, 3, 1, 1)
    mean, std = (np.array(v, np.float32).reshape(shape) * np.float32(wanted.scale) for v in (wanted.mean, wanted.std))
    if mean.any():
        chain.add("Sub", mean)
    if (std != 1).any():
        chain.add("Div", std)
    return chain


def _behind(file: OnnxFile, output: str) -> _Chain:
    """From the network's output to our mask or logits."""
    from onnx import TensorProto, helper

    chain, found = _Chain("scores"), file.result
    height, width = file.size
    if found.form == "ids":
        if len(found.shape) == 4:
            chain.add("Reshape", np.array([1, height, width], np.int64))
        return chain.add("Cast", to=TensorProto.UINT8).name_end("mask")
    if found.axis is None:
        chain.add("Reshape", np.array([1, 1, *found.grid], np.int64))
    elif found.axis == 3:
        chain.add("Transpose", perm=[0, 3, 1, 2])
    if found.form == "binary":  # two logits, of which the second is higher above the threshold
        above = chain.add("Sub", np.array(file.threshold, np.float32)).current
        below = chain.add("Neg").current
        name = f"{BORDER}two"
        chain.nodes.append(helper.make_node("Concat", [below, above], [name], name=name, axis=1))
        chain.current = name
    if found.grid != file.size:
        sizes = np.array([1, file.classes, height, width], np.int64)
        chain.add(
            "Resize", None, None, sizes, mode="linear", coordinate_transformation_mode="half_pixel"
        )  # fmt: skip
    if output == "logits":
        return chain.name_end("logits")
    return chain.add("ArgMax", axis=1, keepdims=0).add("Cast", to=TensorProto.UINT8).name_end("mask")


def _image(file: OnnxFile, output: str) -> tuple[int, tuple[int, ...]]:
    """Type and shape of what our file takes."""
    from onnx import TensorProto

    height, width = file.size
    return (
        (TensorProto.UINT8, (1, height, width, 3)) if output == "mask" else (TensorProto.FLOAT, (1, 3, height, width))
    )


def _returned(file: OnnxFile, output: str) -> Any:
    """What our file returns."""
    from onnx import TensorProto

    height, width = file.size
    if output == "mask":
        return _value("mask", TensorProto.UINT8, (1, height, width))
    assert file.classes is not None
    return _value("logits", TensorProto.FLOAT, (1, file.classes, height, width))


def _value(name: str, kind: int, shape: tuple[int, ...]) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, shape)


def _resize(value: Any, shape: tuple[int, ...]) -> None:
    """Set the shape of a graph's input or output."""
    del value.type.tensor_type.shape.dim[:]
    for side in shape:
        value.type.tensor_type.shape.dim.add(dim_value=side)


def name_layers(graph: Any) -> None:
    """Give every convolution and matrix product a name of its own: its weight's, where that says something."""
    constants = {constant.name for constant in graph.initializer}
    taken: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        if node.op_type not in LAYER_OPERATORS:
            continue
        weight = next((name for name in node.input[1:2] if name in constants and "::" not in name), "")
        name = weight.removeprefix(PREFIX).removesuffix("weight") or node.name.removeprefix(PREFIX)
        # "/" and "#" are what engines put behind a layer's name.
        name = name.replace("/", ".").replace("#", ".").strip("._") or f"{node.op_type}_{index}"
        taken[name] = taken.get(name, 0) + 1
        node.name = name if taken[name] == 1 else f"{name}.{taken[name]}"


def count_parameters(model: Any) -> int:
    """Floats of the network's constants, those of what was put around it left out."""
    from onnx import TensorProto

    return sum(
        int(np.prod(constant.dims))
        for constant in model.graph.initializer
        if constant.data_type == TensorProto.FLOAT and constant.name.startswith(PREFIX)
    )
