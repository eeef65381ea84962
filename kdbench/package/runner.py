"""``run.py`` of a package: a program of a few lines that segments an image with the artifact, and without kdbench."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from kdbench.package.shipped import Shipped


def program(shipped: Shipped) -> str:
    """The text of run.py."""
    # Python, not HTML: nothing is escaped. What is filled in is numbers, and names that tensors_of() found harmless.
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = environment.from_string((files("kdbench.package") / "run.py.j2").read_text(encoding="utf-8"))
    provider = shipped.sidecar.get("provider")
    if shipped.format == "onnx":
        provider = "CUDAExecutionProvider" if shipped.on_gpu else "CPUExecutionProvider"
    height, width = shipped.size
    return template.render(
        name=shipped.name, format=shipped.format, provider=provider, height=height, width=width,
        palette=[channel for color in shipped.palette for channel in color],
        file=shipped.path.name, image=shipped.image, result=shipped.result,
        shape=tuple(1 if extent == -1 else extent for extent in shipped.result.shape),
        batch=batch_expression(shipped), class_ids=class_ids_expression(shipped),
    )  # fmt: skip


def batch_expression(shipped: Shipped) -> str:
    """From ``pixels``, 1 x H x W x 3 uint8, to what the artifact takes."""
    image, wanted = shipped.image, shipped.input
    text = "pixels"
    if image.dtype != "uint8":
        if wanted.turns_channels:
            text = "pixels[..., ::-1]"  # BGR
        mean, std = ([float(value) for value in values] for values in (wanted.mean, wanted.std))
        scale = f"np.array({std}, np.float32)"
        whole = f"{wanted.scale:g} * " if wanted.scale != 1 else ""
        text = f"({text} * (1 / ({whole}{scale})) - np.array({mean}, np.float32) / {scale})"
    if not image.channels_last:
        text = f"{text}.transpose(0, 3, 1, 2)"
    return text if image.dtype == "uint8" else f"{text}, np.{image.dtype}"


def class_ids_expression(shipped: Shipped) -> str:
    """From ``result``, the output of one image, to H x W uint8."""
    if not shipped.result.dtype.startswith("float"):
        return "result.reshape(HEIGHT, WIDTH).astype(np.uint8)"
    return "result.argmax(0).astype(np.uint8)"


def requirements(shipped: Shipped) -> str:
    """The text of requirements.txt: the engine in the version that was measured."""
    versions = dict(shipped.comparison.environment["versions"])
    # Either distribution has the other's engine: a row of the processor may have been measured with the one for GPUs.
    for name, other in (("onnxruntime", "onnxruntime-gpu"), ("onnxruntime-gpu", "onnxruntime")):
        if other in versions:
            versions.setdefault(name, versions[other])
    packages = {
        "onnx": ["onnxruntime-gpu" if shipped.on_gpu else "onnxruntime"],
        "openvino": ["openvino"],
        "trt": [str(shipped.sidecar.get("provider", "tensorrt")).replace("_", "-"), "cuda-python"],
    }[shipped.format]
    lines = ["numpy", "pillow>=10.1", *packages]
    return "".join(f"{line}=={versions[line]}\n" if line in versions else f"{line}\n" for line in lines)
