"""ONNX Runtime."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.backends.base import Backend
from kdbench.backends.declared import BACKENDS, DeclaredBackend
from kdbench.backends.exported import read_export
from kdbench.backends.precision_proof import LEAST_SHARE, require_precision, share_by_type
from kdbench.data.normalisation import Input
from kdbench.errors import BackendUnavailable, BadInput, NoSuchPrecision, RunFailed, one_line
from kdbench.machine.checks import Check, Gpu, Package, cpu, gpu_row, package_row, try_import
from kdbench.machine.cores import need_answers_alone, usable_cores
from kdbench.machine.scratch import ScratchFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdbench.data.preprocessing import Size

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ERRORS = 3
"""ONNX Runtime's log level: its warnings are about its own optimisers, and nothing that a person could mend."""
FLOAT_OPERATORS = (
    "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention",
    "MultiHeadAttention",
)  # fmt: skip
INTEGER_OPERATORS = (
    "QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "QGemm", "QAttention",
)  # fmt: skip
INPUTS = {"mask": ("tensor(uint8)", 4), "logits": ("tensor(float)", 4)}


class OnnxBackend(Backend):
    """An ``.onnx`` file in one session."""

    def __init__(self, session: Any, output: str, size: Size, details: dict[str, Any]) -> None:
        self._session, self.output, self.size, self.details = session, output, size, details
        self._input = session.get_inputs()[0].name

    @classmethod
    def load(cls, artifact: Path, *, output: str, size: Size | None, device: str, threads: int) -> OnnxBackend:
        sidecar = read_export(artifact, "onnx", size)
        backend = cls.open(artifact, output=output, device=device, threads=threads, precision=sidecar["precision"])
        backend.input = Input.recorded(sidecar)
        return backend

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        output: str,
        device: str = "cpu",
        threads: int = 0,
        precision: str | None = None,
        spinning: bool | None = None,
    ) -> OnnxBackend:
        """Open a file without asking for a sidecar; otherwise as ``load``.

        Args:
            precision: what its convolutions must run in, as a sidecar says; None = whatever they do.
            spinning: see ``configure``.
        """
        session, details = open_session(path, device=device, threads=threads, precision=precision, spinning=spinning)
        return cls(session, output, _image_size(session, path, output), details)

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        return answers(self._session, None, {self._input: batch})[0]

    def close(self) -> None:
        del self._session


def answers(session: Any, names: list[str] | None, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """What a session computes.

    Raises:
        RunFailed: an operator failed, in ONNX Runtime's own words.
    """
    try:
        found: list[NDArray[Any]] = session.run(names, inputs)
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise RunFailed(f"the ONNX file does not run ({one_line(error, 300)}): export it again") from error
    return found


def configure(options: Any, *, threads: int, spinning: bool | None = None) -> None:
    """Set an ``onnxruntime.SessionOptions`` as every session of kdbench has it, those of quantisers included.

    Args:
        threads: inside an operator; 0 = one per core that may be used.
        spinning: whether threads wait for the next operator by running in circles. Alone on the machine a session is
            faster so, and that is how it is timed: one process per backend. Beside anything else that computes, the
            other engine of a comparison above all, the circles take its cores. None = unless ``need_answers_alone``.
    """
    import onnxruntime

    spinning = not need_answers_alone() if spinning is None else spinning
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS
    onnxruntime.set_default_logger_severity(ERRORS)  # what is said outside of a session
    onnxruntime.disable_telemetry_events()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))


def open_session(
    path: Path, *, device: str = "cpu", threads: int = 0, precision: str | None = None, spinning: bool | None = None
) -> tuple[Any, dict[str, Any]]:
    """An ONNX Runtime session, and what runs in it.

    Args:
        precision: what its convolutions must run in; None = whatever they do.
        spinning: see ``configure``.

    Raises:
        BackendUnavailable: this machine has no such provider. BadInput: ONNX Runtime does not run the file.
        NoSuchPrecision: a float16 file is computed in float32 here.
        RunFailed: the provider fell back to another, or convolutions run in another precision than the file's.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(
            "onnx: ONNX Runtime is not installed: `pip install onnxruntime` (onnxruntime-gpu beside an NVIDIA GPU)"
        ) from error
    provider = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise BackendUnavailable(
            f"onnx: this ONNX Runtime has {', '.join(onnxruntime.get_available_providers())}, --device {device} "
            f"needs {provider}: `pip install onnxruntime-gpu` in place of onnxruntime, or use --device cpu"
        )
    if device == "cuda":
        onnxruntime.preload_dlls()  # the CUDA and cuDNN that torch brought along
    options = onnxruntime.SessionOptions()
    configure(options, threads=threads, spinning=spinning)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    operators = None
    with ScratchFolder("onnx") as folder:
        optimised = Path(folder) / "optimised.onnx"
        if precision is not None:
            options.optimized_model_filepath = str(optimised)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # its exception classes are not exported under stable names
            first_line = str(error).splitlines()[0]
            raise BadInput(f"'{path}' is not an ONNX model that this ONNX Runtime runs ({first_line})") from error
        if precision is not None:
            operators = share_by_type(compute_types(optimised))
            try:
                require_precision(operators, precision, f"onnx: '{path}'")
            except RunFailed as error:
                if precision != "fp16" or share_by_type(compute_types(path)).get("fp16", 0.0) < LEAST_SHARE:
                    raise
                # The file is what it says; this processor has no half precision for the provider to compute in.
                raise NoSuchPrecision(str(error)) from error
    # A session falls back to the CPU without an exception: that is a failure, not a slow row.
    if session.get_providers()[0] != provider:
        raise RunFailed(
            f"onnx: asked for {provider}, but the session runs on {session.get_providers()[0]}: "
            "check that CUDA and cuDNN fit this onnxruntime-gpu"
        )
    providers = compute_providers(session)
    require_provider(providers, provider, path)
    details: dict[str, Any] = {
        "device": device,
        "provider": provider,
        "threads": options.intra_op_num_threads,
        "onnxruntime": onnxruntime.__version__,
        "precision": precision,
        "operators": operators,
        "operators_by_provider": providers,
    }
    return session, details


def compute_types(optimised: Path) -> Iterator[str]:
    """What each convolution and matrix product computes in, by the graph that the session itself runs.

    Args:
        optimised: what ``SessionOptions.optimized_model_filepath`` got; of another graph, what it asks for.
    """
    import onnx

    graph = onnx.load(optimised).graph
    types = {constant.name: constant.data_type for constant in graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    for node in graph.node:
        if node.op_type in INTEGER_OPERATORS:
            yield "int8"
        elif node.op_type in FLOAT_OPERATORS:
            # Attention multiplies two activations: their type is told beside the graph, by every exporter and session.
            # What is told nowhere comes out of a DequantizeLinear or Cast, in float32.
            yield "fp16" if types.get(node.input[1]) == onnx.TensorProto.FLOAT16 else "fp32"


def compute_providers(session: Any) -> dict[str, float]:
    """Share of convolutions and matrix products on each provider: single ones may run on the CPU beside a GPU.

    Args:
        session: opened with "session.record_ep_graph_assignment_info"; empty where ONNX Runtime is too old to tell.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    return share_by_type(
        group.ep_name
        for group in session.get_provider_graph_assignment_info()
        for node in group.get_nodes()
        if node.op_type in (*FLOAT_OPERATORS, *INTEGER_OPERATORS)
    )


def require_provider(shares: dict[str, float], provider: str, path: Path) -> None:
    """Raise RunFailed where some of the work was left to another provider than the one asked for."""
    if shares and set(shares) != {provider}:
        ran = ", ".join(f"{100 * share:.0f}% on {name}" for name, share in shares.items())
        raise RunFailed(
            f"onnx: '{path}' was to run on {provider}, but its convolutions and matrix products run {ran}, expected "
            f"all on {provider}: this provider lacks operators for the file; compare another precision or device"
        )


def _image_size(session: Any, path: Path, output: str) -> Size:
    """(H, W) of a model with one static image input.

    Raises:
        BadInput: several inputs, or another type or shape than ``output`` implies.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise BadInput(f"'{path}' has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}), expected one image")
    kind, rank = INPUTS[output]
    shape = inputs[0].shape
    height, width, channels = ("?", "?", "?")
    if len(shape) == rank and (shape[0] == 1 or isinstance(shape[0], str)):  # an open batch has a name
        height, width, channels = shape[1:] if output == "mask" else (shape[2], shape[3], shape[1])
    if inputs[0].type != kind or channels != 3 or not isinstance(height, int) or not isinstance(width, int):
        wanted = "1 x H x W x 3 uint8" if output == "mask" else "1 x 3 x H x W float32"
        raise BadInput(
            f"'{path}': input '{inputs[0].name}' is {inputs[0].type} {shape}, expected {wanted} for output {output}: "
            f"export it with `kdbench export --output {output}`"
        )
    return height, width


def probe(gpu: Gpu | None) -> list[Check]:
    """ONNX Runtime on the CPU, and on the GPU."""
    package = try_import("onnxruntime", *("onnxruntime-gpu", "onnxruntime")[:: 1 if gpu else -1])
    providers: list[str] = []
    if package.module is not None:
        try:
            providers = package.module.get_available_providers()
        except Exception as error:  # for example a leftover folder without the library
            reason = f"is incomplete ({type(error).__name__}: {error})"
            package = Package(None, package.version, reason, "pip install --force-reinstall onnxruntime")
    note = None
    if platform.machine().lower() in ("x86_64", "amd64"):
        note = "fp16 files are computed in fp32 on this processor: their rows are unsupported"
    install = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
    return [
        package_row("onnx", "ONNX Runtime CPU", package, cpu(), ("fp32", "int8"), note),
        gpu_row(
            "onnx", "ONNX Runtime CUDA", package, gpu.name if gpu else None, ("fp32", "fp16"),
            None if "CUDAExecutionProvider" in providers else install,
        ),
    ]  # fmt: skip


BACKENDS.add(DeclaredBackend("onnx", OnnxBackend.load, probe, loads="onnx", usual=True, color="#0072B2"))
