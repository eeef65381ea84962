"""``kdbench predict``: class maps and overlays of a person's own images, by any backend or an ONNX file alone.

    with open_predictor(RunTree(Path("runs"), "camvid"), "response", "onnx", "cpu") as predictor:
        class_map = predictor.class_map(image)          # H x W class ids at the image's own resolution

Preprocessing is that of training and evaluation; the class map is brought back by nearest neighbour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdbench.backends import Backend, artifact_of, load_backend, runs_checkpoints
from kdbench.backends.onnx_file import OnnxFile
from kdbench.backends.onnx_layout import NOTHING_SAID, Reading
from kdbench.data.base import IMAGE_SUFFIXES, Color, exif_orientation, read_image
from kdbench.data.palette import distinct_palette
from kdbench.data.preprocessing import resize_image, resize_label
from kdbench.errors import BadInput, RunFailed
from kdbench.predict.overlay import blend, palette_image, shares, with_legend
from kdbench.progress import progress_bar
from kdbench.runs.files import atomic_path
from kdbench.runs.tree import RunTree, sidecar_path


@dataclass(frozen=True)
class Predictor:
    """A loaded backend, and what its class ids mean."""

    backend: Backend
    classes: tuple[str, ...]
    palette: tuple[Color, ...]

    def class_map(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """H x W x 3 uint8 RGB of any size → H x W class ids."""
        result = self.backend.infer(self.backend.prepare(resize_image(image, self.backend.size)))[0]
        if not np.isfinite(result).all():
            raise RunFailed(
                "the engine returned NaN or infinite logits, expected finite ones: its classes mean nothing"
            )
        mask = result if self.backend.output == "mask" else result.argmax(0).astype(np.uint8)
        known = min(len(self.classes), len(self.palette))
        if (highest := int(mask.max(initial=0))) >= known:
            raise RunFailed(
                f"the engine returned the class id {highest}, names and colours are known of {known} classes: export "
                "again"
            )
        return resize_label(mask, (image.shape[0], image.shape[1]))


@contextmanager
def open_predictor(tree: RunTree, method: str, backend: str, device: str) -> Iterator[Predictor]:
    """Load what ``kdbench train`` or ``kdbench export`` made; closed at the end of the block.

    Raises:
        Missing, BadInput: no such checkpoint or export, or a broken one.
        BackendUnavailable: this machine cannot run it.
    """
    made_by = f"kdbench {'train' if runs_checkpoints(backend) else 'export'} --method {method}"
    artifact = artifact_of(tree, method, backend, "fp32", "mask")
    engine = load_backend(backend, artifact, output="mask", device=device)
    try:
        yield predictor_of(engine, artifact, made_by)
    finally:
        engine.close()


def predictor_of(engine: Backend, artifact: Path, made_by: str) -> Predictor:
    """A loaded engine with the classes and colours that its artifact's sidecar has.

    Args:
        made_by: the command that makes the artifact, for the error.

    Raises:
        Missing: no sidecar. BadInput: it does not say what class ids mean.
    """
    from kdbench.runs.sidecar import read_checkpoint_sidecar, read_export_sidecar

    read = read_checkpoint_sidecar if artifact.suffix == ".safetensors" else read_export_sidecar
    about = read(sidecar_path(artifact), made_by)
    lacking = [key for key in ("classes", "palette") if key not in about]
    if lacking:
        raise BadInput(
            f"'{sidecar_path(artifact)}' lacks {' and '.join(lacking)}, expected what class ids mean: "
            f"make it again with `{made_by}`"
        )
    return Predictor(
        engine, tuple(about["classes"]), tuple((red, green, blue) for red, green, blue in about["palette"])
    )


@contextmanager
def open_file_predictor(
    model: Path, reading: Reading = NOTHING_SAID, limit_s: float | None = None
) -> Iterator[Predictor]:
    """Load an ONNX file with nothing beside it: ours say what class ids mean, others get numbers and generated colours.

    Args:
        reading: what the file does not say itself.
        limit_s: seconds for each image, in a process of its own; None = in this one, without a limit.

    Raises:
        BadInput: no ONNX file, or no segmentation of one image. RunFailed: it hangs or crashes.
    """
    engine = OnnxFile.open(model, reading, limit_s=limit_s, per_answer=True)
    try:
        classes = engine.about.get("classes") or [str(i) for i in range(engine.classes or 256)]
        palette = engine.about.get("palette") or distinct_palette(len(classes))
        yield Predictor(engine, tuple(classes), tuple((red, green, blue) for red, green, blue in palette))
    finally:
        engine.close()


@dataclass(frozen=True)
class Predictions:
    """What came of a list of images.

    Attributes:
        written: (image, mask file, overlay file).
        problems: one line per image or argument that could not be predicted.
        warnings: one line each.
    """

    written: tuple[tuple[Path, Path, Path], ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def predict_images(predictor: Predictor, arguments: Sequence[Path], folder: Path) -> Predictions:
    """Predict images and folders of images, and write NAME-mask.png and NAME-overlay.png for each into ``folder``.

    Args:
        arguments: image files, and folders whose image files are taken (not those of folders inside).

    Raises:
        BadInput: writing would replace one of the images.
    """
    images, problems = find_images(arguments)
    outputs = name_outputs(images, folder)
    sources = {image.resolve() for image in images}
    for image, files in outputs.items():
        replaced = [file for file in files if file.resolve() in sources]
        if replaced:
            raise BadInput(
                f"--output-dir: '{folder}' holds '{replaced[0].name}', an input, which the prediction of '{image}' "
                "would replace: name another folder"
            )
    written, warnings = [], []
    with progress_bar("predict", len(images)) as bar:
        for image, (mask_file, overlay_file) in outputs.items():
            try:
                pixels = read_image(image)
            except BadInput as error:
                problems.append(str(error))
            else:
                class_map = predictor.class_map(pixels)
                _save(palette_image(class_map, predictor.palette), mask_file)
                picture = blend(pixels, class_map, predictor.palette)
                legend = shares(class_map, predictor.classes)
                _save(Image.fromarray(with_legend(picture, legend, predictor.palette)), overlay_file)
                written.append((image, mask_file, overlay_file))
                if (turned := exif_orientation(image)) > 1:
                    warnings.append(
                        f"image '{image}' has EXIF orientation {turned}, which is not applied: "
                        "if it looks turned, write the orientation into its pixels first"
                    )
            bar.advance(1, image.name)
    return Predictions(tuple(written), tuple(problems), tuple(warnings))


def find_images(arguments: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The image files that the arguments mean, each once and in order; and one line per argument that means none."""
    found: dict[Path, Path] = {}
    problems = []
    for argument in arguments:
        if argument.is_dir():
            files = [
                path
                for path in sorted(argument.iterdir())
                if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
            ]
            if not files:
                problems.append(
                    f"folder '{argument}' holds no image files ({', '.join(IMAGE_SUFFIXES)}): name the folder itself, "
                    "folders inside it are not searched"
                )
        elif argument.exists():
            files = [argument]
        else:
            files = []
            problems.append(f"image '{argument}' does not exist, expected an image file or a folder: check the path")
        for path in files:
            found.setdefault(path.resolve(), path)
    return list(found.values()), problems


def name_outputs(images: Sequence[Path], folder: Path) -> dict[Path, tuple[Path, Path]]:
    """Image → its mask and overlay file: by its own name, with its folder's in front where two images share one."""
    # Folded, because a/Road.png and b/road.png are one file name on Windows and macOS.
    count = Counter(image.stem.casefold() for image in images)
    taken, outputs = set[str](), {}
    for image in images:
        base = image.stem if count[image.stem.casefold()] == 1 else f"{image.resolve().parent.name}-{image.stem}"
        name, number = base, 1
        # A lone image's own name always stays: others must not be the cause of it changing.
        while name.casefold() in taken or (name != image.stem and count[name.casefold()]):
            number += 1
            name = f"{base}-{number}"
        taken.add(name.casefold())
        outputs[image] = (folder / f"{name}-mask.png", folder / f"{name}-overlay.png")
    return outputs


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary)
