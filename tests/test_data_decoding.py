"""Image and mask files of every mode, depth and kind of damage."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_files import IMAGE, SIZE, ids, refused, save

from kdbench.data.base import read_image, read_mask, voc_palette


def save_palette(path: Path, ids: np.ndarray) -> Path:
    """A mask as VOC stores it: palette PNG, index = class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    image.putpalette([channel for color in voc_palette(256) for channel in color])
    image.save(path)
    return path


def save_bits(path: Path, rows: list[bytes], width: int, bits: int) -> Path:
    """A greyscale PNG of less than 8 bits, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(png)
    return path


def test_images_of_other_modes(tmp_path):
    grey = save(tmp_path / "grey.png", IMAGE[..., 0])
    np.testing.assert_array_equal(read_image(grey), IMAGE[..., :1].repeat(3, 2))
    alpha = save(tmp_path / "alpha.png", np.dstack([IMAGE, ids(0, 255)]))
    np.testing.assert_array_equal(read_image(alpha), IMAGE)
    palette = Image.fromarray(IMAGE).convert("P")
    palette.save(tmp_path / "palette.png", transparency=b"\x00\xff")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint16), (".tif", np.int32), (".tif", np.float32)])
def test_deep_files(tmp_path, suffix, dtype):
    path = save(tmp_path / f"deep{suffix}", np.arange(48).reshape(SIZE).astype(dtype) * 500)
    refused(lambda: read_image(path), path, "has mode", "expected 8 bits a channel")
    if dtype == np.float32:
        refused(lambda: read_mask(path), path, "has mode", "expected one 8-bit channel", "save it with 8 bits")
    else:
        refused(lambda: read_mask(path), path, "holds ids from 0 to 23500", "expected 0 to 255")


def test_mask_modes(tmp_path):
    np.testing.assert_array_equal(read_mask(save_palette(tmp_path / "p.png", ids(0, 3, 255))), ids(0, 3, 255))
    np.testing.assert_array_equal(read_mask(save(tmp_path / "1.png", ids(0, 1).astype(bool))), ids(0, 1))
    rgb = save(tmp_path / "rgb.png", IMAGE)
    refused(lambda: read_mask(rgb), rgb, "mode RGB", "convert the colours to class ids")
    lossy = save(tmp_path / "lossy.jpg", ids(0, 1, 2))
    refused(lambda: read_mask(lossy), lossy, "is a JPEG", "PNG")


def test_masks_of_few_bits_are_read_as_stored(tmp_path):
    # Optimisers make these; Pillow stretches their values to 0 … 255.
    four = save_bits(tmp_path / "4.png", [b"\x01\x2f", b"\xab\xcd"], width=4, bits=4)
    np.testing.assert_array_equal(read_mask(four), [[0, 1, 2, 15], [10, 11, 12, 13]])
    two = save_bits(tmp_path / "2.png", [b"\x1b"], width=4, bits=2)
    np.testing.assert_array_equal(read_mask(two), [[0, 1, 2, 3]])


@pytest.mark.filterwarnings("ignore:.*EXIF data:UserWarning")  # Pillow's own remark on the cut TIFF
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_truncated_files(tmp_path, suffix):
    path = save(tmp_path / f"cut{suffix}", np.tile(IMAGE, (20, 20, 1)))
    whole = path.read_bytes()
    for length in (len(whole) // 2, 12, 0):
        path.write_bytes(whole[:length])
        for read, item in ((read_image, "image"), (read_mask, "mask")):
            if item == "mask" and length > 12:
                continue  # RGB is refused first
            refused(lambda read=read: read(path), f"{item} '{path}'", "replace or remove it")


def test_damaged_palette_mask(tmp_path):
    path = save_palette(tmp_path / "mask.png", ids(0, 1))
    path.write_bytes(path.read_bytes()[:-30])
    refused(lambda: read_mask(path), f"mask '{path}' cannot be decoded", "replace or remove it")


def test_not_an_image_and_no_file(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("hello")
    refused(lambda: read_image(text), text, "is not an image file")
    refused(lambda: read_mask(tmp_path / "gone.png"), tmp_path / "gone.png", "does not exist")


def test_decompression_bomb(tmp_path, monkeypatch):
    path = save(tmp_path / "huge.png", IMAGE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    refused(lambda: read_image(path), path, "48 pixels", "exceeds limit")
