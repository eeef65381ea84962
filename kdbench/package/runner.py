"""``run.py`` of a package: a program of a few lines that segments an image with the artifact, and without kdbench."""

from __future__ import annotations

from kdbench.package.shipped import Shipped

ENGINES = {
    "onnx": """\
def infer(batch):
    session = onnxruntime.InferenceSession(HERE / "{file}", providers=["{provider}"])
    return session.run(None, {{"{input}": batch}})[0]
""",
    "openvino": """\
def infer(batch):
    # Without the hint, float layers run in bfloat16 on processors that have it.
    model = openvino.Core().compile_model(HERE / "{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
    return model(batch)[0]
""",
    "trt": """\
def infer(batch):
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine((HERE / "{file}").read_bytes())
    context = engine.create_execution_context()
    result = np.empty({shape}, np.{dtype})
    stream = call(cuda.cudaStreamCreate())
    on_gpu = {{"{input}": call(cuda.cudaMalloc(batch.nbytes)), "{output}": call(cuda.cudaMalloc(result.nbytes))}}
    context.set_input_shape("{input}", batch.shape)
    for name, address in on_gpu.items():
        context.set_tensor_address(name, address)
    there, back = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
    call(cuda.cudaMemcpyAsync(on_gpu["{input}"], batch.ctypes.data, batch.nbytes, there, stream))
    if not context.execute_async_v3(stream):
        sys.exit("the engine did not run")
    call(cuda.cudaMemcpyAsync(result.ctypes.data, on_gpu["{output}"], result.nbytes, back, stream))
    call(cuda.cudaStreamSynchronize(stream))
    return result


def call(answer):
    error, *values = answer
    if error != cuda.cudaError_t.cudaSuccess:
        sys.exit(f"CUDA: {{error}}")
    return values[0] if values else None
""",
}
IMPORTS = {
    "onnx": "import onnxruntime\n",
    "openvino": "import openvino\n",
    "trt": "import {provider} as trt\nfrom cuda.bindings import runtime as cuda\n",
}
PROGRAM = '''\
"""Segment an image with {name}: python run.py IMAGE MASK.png

Pixel values of the mask are class ids, its colours those of the data set. Needs requirements.txt, and not kdbench.
"""

import sys
from pathlib import Path

import numpy as np
{imports}from PIL import Image

HERE = Path(__file__).resolve().parent
HEIGHT, WIDTH = {height}, {width}
PALETTE = {palette}  # red, green, blue of class 0, of class 1, ...


{engine}

def main(image_file, mask_file):
    image = Image.open(image_file).convert("RGB")
    pixels = np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))[None]
    result = infer(np.ascontiguousarray({batch}))[0]
    class_ids = Image.fromarray({class_ids})
    mask = class_ids.resize(image.size, Image.Resampling.NEAREST)
    mask.putpalette(PALETTE)
    mask.save(mask_file)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python run.py IMAGE MASK.png")
    main(*sys.argv[1:])
'''


def program(shipped: Shipped) -> str:
    """The text of run.py."""
    image, result = shipped.image, shipped.result
    provider = shipped.sidecar.get("provider", "tensorrt")
    if shipped.format == "onnx":
        provider = "CUDAExecutionProvider" if shipped.on_gpu else "CPUExecutionProvider"
    names = {
        "file": shipped.path.name, "input": image.name, "output": result.name, "provider": provider,
        "shape": tuple(1 if extent == -1 else extent for extent in result.shape), "dtype": result.dtype,
    }  # fmt: skip
    return PROGRAM.format(
        name=shipped.name, imports=IMPORTS[shipped.format].format(**names), height=shipped.size[0],
        width=shipped.size[1], palette=[channel for color in shipped.palette for channel in color],
        engine=ENGINES[shipped.format].format(**names), batch=batch_expression(shipped),
        class_ids=class_ids_expression(shipped),
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
    versions = shipped.comparison.environment["versions"]
    packages = {
        "onnx": ["onnxruntime-gpu" if shipped.on_gpu else "onnxruntime"],
        "openvino": ["openvino"],
        "trt": [str(shipped.sidecar.get("provider", "tensorrt")).replace("_", "-"), "cuda-python"],
    }[shipped.format]
    lines = ["numpy", "pillow>=10.1", *packages]
    return "".join(f"{line}=={versions[line]}\n" if line in versions else f"{line}\n" for line in lines)
