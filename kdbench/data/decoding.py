"""Image and mask files to arrays: what loses nothing is read, what is damaged or lossy is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from kdbench.errors import BadInput
from kdbench.runs.files import require_regular

LARGEST = 1024 * 2**20
"""Bytes of an image at most."""
LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")
_EXIF_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"


class ColouredMask(BadInput):
    """A mask of colours where class ids are expected."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to H x W x 3 RGB uint8, pixels as stored: an EXIF orientation is not applied.

    Masks are drawn on stored pixels (VOC, most tools), and turning the image alone would part it from its mask.

    Raises:
        BadInput: the file is missing, cut short, damaged, no image, over Pillow's size limit, or has 16 or 32 bits a
            channel.
    """
    with _opened("image", path) as image:
        if image.mode.startswith(("I", "F")):  # conversion would clip everything over 255 to white
            raise BadInput(f"image '{path}' has mode {image.mode}, expected 8 bits a channel: save it with 8 bits")
        image.info.pop("transparency", None)  # dropped, as alpha is; Pillow would warn about it in palette files
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Decode a mask file to H x W class ids as stored: of a palette image its indices, not its colours.

    Ids may stand in three equal channels, beside an opaque alpha channel, and in 16 or 32 bits below 256.

    Raises:
        ColouredMask: its channels differ.
        BadInput: the file is missing, cut short, damaged, no image, lossy, transparent, or has ids over 255.
    """
    with _opened_mask(path) as image:
        if image.mode.startswith("I"):
            return _narrowed(np.asarray(image), path)
        if image.mode in ("L", "P", "1"):
            # Pillow stretches 2 and 4 bit greyscale to 0 … 255, which for ids means multiples of 85 and 17.
            stored = _stored(image)
            step = 85 if "L;2" in stored else 17 if "L;4" in stored else 1
            return np.asarray(image, dtype=np.uint8) // np.uint8(step)
        bands = _opaque(image, path)
        if bands.shape[2] == 3 and ((bands[..., 0] != bands[..., 1]) | (bands[..., 0] != bands[..., 2])).any():
            raise ColouredMask(
                f"mask '{path}' has mode {image.mode} with different channels, expected one channel of class ids: "
                "convert the colours to class ids, or name them in classes.txt"
            )
        return np.ascontiguousarray(bands[..., 0])


def read_colours(path: Path) -> NDArray[np.int32]:
    """Decode a mask file to H x W colours, each 65536 · red + 256 · green + blue; of a palette image its colours.

    Raises:
        BadInput: as for ``read_mask``.
    """
    with _opened_mask(path) as image:
        if image.mode.startswith("I"):
            return _narrowed(np.asarray(image), path).astype(np.int32) * 0x010101
        if image.mode == "P":
            image.info.pop("transparency", None)
            bands = np.asarray(image.convert("RGB"))
        elif image.mode in ("L", "1"):
            bands = np.asarray(image.convert("L"))[..., None]
        else:
            bands = _opaque(image, path)
        wide = bands.astype(np.int32)
        return wide[..., 0] * 65536 + wide[..., bands.shape[2] // 2] * 256 + wide[..., -1]


def palette_in_use(path: Path) -> dict[int, tuple[int, int, int]]:
    """The colour of each index that a palette mask uses; empty of other masks, and of those that cannot be read."""
    try:
        with _as_found(path) as image:
            if image.mode != "P" or (palette := image.getpalette("RGB")) is None:
                return {}
            used = np.flatnonzero(np.bincount(np.asarray(image).ravel(), minlength=256)).tolist()
    except Exception:  # reading the mask says what is wrong with it
        return {}
    colours = [(palette[at], palette[at + 1], palette[at + 2]) for at in range(0, len(palette) - 2, 3)]
    return {index: colours[index] for index in used if index < len(colours)}


def dropped_band(path: Path) -> bool:
    """Whether an image has a fourth band that says something and that ``read_image`` drops."""
    try:
        with _as_found(path) as image:
            bands = image.getbands()
            if image.mode == "CMYK" or len(bands) not in (2, 4):
                return False
            lowest, highest = image.getchannel(len(bands) - 1).getextrema()
            return (lowest, highest) not in ((255, 255), (0, 0))
    except Exception:
        return False


def _as_found(path: Path) -> Image.Image:
    """Opened, with Pillow's own errors."""
    require_regular(path, "replace or remove it", LARGEST)
    return Image.open(path)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image file's pixels as stored, by its first bytes.

    Raises:
        BadInput: as for ``read_image``, as far as these show it.
    """
    with _opened("image", path, verified=False) as image:
        return image.height, image.width


def exif_orientation(path: Path) -> int:
    """The orientation tag of an image file, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    try:
        with _as_found(path) as image:
            tag = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # damaged metadata raises anything; reading the pixels reports what matters
        return 1
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else 1


def _opaque(image: ImageFile.ImageFile, path: Path) -> NDArray[np.uint8]:
    """H x W x (1 or 3) channels of a mask of 8 bits, its alpha left off."""
    if image.mode not in ("LA", "PA", "RGB", "RGBA") or ";16" in _stored(image):
        deep = f" of {_stored(image)}" if ";16" in _stored(image) else ""
        raise BadInput(
            f"mask '{path}' has mode {image.mode}{deep}, expected one 8-bit channel of class ids: save it with 8 bits"
        )
    bands = np.asarray(image)
    if image.mode.endswith("A"):
        alpha = bands[..., -1]
        if alpha.min() < 255:
            share = np.count_nonzero(alpha < 255) / alpha.size
            raise BadInput(
                f"mask '{path}' is transparent in {share:.1%} of its pixels, expected class ids: "
                "save it without an alpha channel"
            )
        bands = bands[..., :-1]
    elif "transparency" in image.info:
        raise BadInput(f"mask '{path}' declares a colour transparent, expected class ids: save it without transparency")
    return bands


def _narrowed(ids: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """Ids of 16 or 32 bits in 8."""
    wide = ids.astype(np.int64)
    if wide.size and (wide.min() < 0 or wide.max() > 255):
        raise BadInput(
            f"mask '{path}' holds ids from {wide.min()} to {wide.max()}, expected 0 to 255: number the classes anew"
        )
    return wide.astype(np.uint8)


def _stored(image: ImageFile.ImageFile) -> str:
    """How the file stores what Pillow hands out in ``image.mode``, as "L;4" or "RGB;16B"."""
    return str(image.tile[0][3]) if image.tile else ""


@contextmanager
def _opened_mask(path: Path) -> Iterator[ImageFile.ImageFile]:
    with _opened("mask", path) as image:
        if image.mode.startswith("F"):
            raise BadInput(
                f"mask '{path}' has mode {image.mode}, expected one 8-bit channel of class ids: save it with 8 bits"
            )
        compressed = image.format == "TIFF" and image.info.get("compression") in ("jpeg", "tiff_jpeg")
        # Pillow does not say of a WebP whether it is lossless; its first bytes do, or those of a part of it.
        lossy_webp = image.format == "WEBP" and b"VP8L" not in _start(image)
        if image.format in LOSSY or compressed or lossy_webp:
            name = f"{image.format} with JPEG's compression" if compressed else str(image.format)
            kind = "lossy WEBP" if lossy_webp else name
            raise BadInput(f"mask '{path}' is a {kind}, which alters class ids: make it again as PNG from its source")
        yield image


def _start(image: ImageFile.ImageFile) -> bytes:
    file = image.fp
    assert file is not None
    at = file.tell()
    file.seek(0)
    start = file.read(4096)
    file.seek(at)
    return start


@contextmanager
def _opened(item: str, path: Path, verified: bool = True) -> Iterator[ImageFile.ImageFile]:
    """Open an image whose bytes are what was written; whatever Pillow raises becomes one line that names the file.

    Args:
        verified: compare a PNG file's checksums; False where pixels are not read.
    """
    if path.exists():
        require_regular(path, "replace or remove it", LARGEST)
    try:
        with path.open("rb") as file:
            start = file.read(len(_PNG))
            file.seek(0)
            source: IO[bytes] = file
            if start == _PNG and verified:
                source = io.BytesIO(data := file.read())
                _verify_png(data)
            with Image.open(source) as image:
                yield image
    except FileNotFoundError as error:
        raise BadInput(f"{item} '{path}' does not exist: restore it, or take its partner out too") from error
    except UnidentifiedImageError as error:  # its text is an object's address
        raise BadInput(f"{item} '{path}' is not an image file that can be read: replace or remove it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Broken PNG chunks are a SyntaxError, broken palettes and sizes a ValueError, a huge claimed size a bomb.
        raise BadInput(f"{item} '{path}' cannot be decoded ({error}): replace or remove it") from error


def _verify_png(data: bytes) -> None:
    """Compare the checksums of the chunks that pixels come from; Pillow skips those of the pixels themselves.

    Raises:
        ValueError: one is wrong, or the file ends within a chunk.
    """
    at = len(_PNG)
    view = memoryview(data)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise ValueError(f"its part {kind.decode('latin-1')!r} is cut short")
        # A capital letter says that a part is needed; one flipped bit makes it a small one.
        critical = not kind[0] & 0x20 or kind.upper() in (b"IHDR", b"PLTE", b"IDAT", b"IEND")
        if critical and zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError(f"its part {kind.decode('latin-1')!r} has a wrong checksum: it was damaged")
        if kind == b"IEND":
            return
        at = end
    raise ValueError("it has no end: it was cut short")
