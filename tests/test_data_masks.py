"""Masks that lose nothing are read in whatever form they come; what is lossy or damaged is refused."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_files import IMAGE, SIZE, ids, refused, save

from kdbench.data.decoding import ColouredMask, palette_in_use, read_colours, read_image, read_mask

LABEL = ids(0, 1, 2, 255)


def grey(*bands: np.ndarray) -> np.ndarray:
    return np.dstack(bands)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("rgb.png", grey(LABEL, LABEL, LABEL)),
        ("rgb.bmp", grey(LABEL, LABEL, LABEL)),
        ("la.png", grey(LABEL, np.full(SIZE, 255, np.uint8))),
        ("rgba.png", grey(LABEL, LABEL, LABEL, np.full(SIZE, 255, np.uint8))),
        ("rgba.tif", grey(LABEL, LABEL, LABEL, np.full(SIZE, 255, np.uint8))),
        ("16.png", LABEL.astype(np.uint16)),
        ("16.tif", LABEL.astype(np.uint16)),
        ("32.tif", LABEL.astype(np.int32)),
    ],
)
def test_ids_in_any_lossless_form(tmp_path, name, array):
    np.testing.assert_array_equal(read_mask(save(tmp_path / name, array)), LABEL)
    np.testing.assert_array_equal(read_colours(tmp_path / name), LABEL.astype(np.int32) * 0x010101)


def test_lossless_webp_is_read_and_lossy_webp_is_not(tmp_path):
    bands = grey(LABEL, LABEL, LABEL)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "kept.webp", bands, lossless=True)), LABEL)
    lossy = save(tmp_path / "lossy.webp", bands, quality=90)
    refused(lambda: read_mask(lossy), lossy, "lossy WEBP", "alters class ids")
    tiff = save(tmp_path / "lossy.tif", LABEL, compression="jpeg")
    refused(lambda: read_mask(tiff), tiff, "JPEG's compression", "alters class ids")


def test_colours(tmp_path):
    colours = np.array([[0, 0, 0], [128, 64, 128], [1, 2, 3]], np.uint8)
    label = ids(0, 1, 2)
    wide = np.array([0, 0x804080, 0x010203], np.int32)[label]
    rgb = save(tmp_path / "rgb.png", colours[label])
    np.testing.assert_array_equal(read_colours(rgb), wide)
    assert isinstance(refusal(rgb), ColouredMask)
    image = Image.fromarray(label)
    image.putpalette(colours.ravel().tolist())
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_colours(tmp_path / "p.png"), wide)
    assert palette_in_use(tmp_path / "p.png") == {0: (0, 0, 0), 1: (128, 64, 128), 2: (1, 2, 3)}
    assert palette_in_use(rgb) == {}


def refusal(path: Path) -> Exception:
    with pytest.raises(ColouredMask) as caught:
        read_mask(path)
    return caught.value


def test_what_would_lose_something_is_refused(tmp_path):
    seen_through = save(tmp_path / "la.png", grey(LABEL, ids(255, 255, 255, 0)))
    refused(lambda: read_mask(seen_through), seen_through, "transparent in 25.0%", "without an alpha channel")
    wide = save(tmp_path / "wide.png", LABEL.astype(np.uint16) * 2)
    refused(lambda: read_mask(wide), wide, "from 0 to 510", "expected 0 to 255")
    negative = save(tmp_path / "negative.tif", LABEL.astype(np.int32) - 1)
    refused(lambda: read_mask(negative), negative, "from -1 to 254")


def test_colour_channels_of_16_bits_are_refused(tmp_path):
    """Pillow would hand out their high bytes, 0 of every id."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">6H", 1, 1, 1, 7, 7, 7))
    path = tmp_path / "deep.png"
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    refused(lambda: read_mask(path), path, "16", "save it with 8 bits")


def test_one_flipped_bit_anywhere_in_a_png_is_noticed(tmp_path):
    """All but those of the parts that no pixel comes from; uncompressed, so that zlib alone would not notice."""
    path = save(tmp_path / "mask.png", LABEL, compress_level=0)
    whole = path.read_bytes()
    start = whole.index(b"IDAT") + 4
    small = whole.replace(b"IDAT", b"iDAT")  # as if nobody needed it
    path.write_bytes(small)
    refused(lambda: read_mask(path), f"mask '{path}' cannot be decoded", "checksum")
    for at in range(start, start + len(whole[start:]) - 16):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        refused(lambda: read_mask(path), f"mask '{path}' cannot be decoded", "checksum")
        refused(lambda: read_image(path), f"image '{path}' cannot be decoded", "checksum")
    for end in (4, 12, 20):
        path.write_bytes(whole[:-end])
        refused(lambda: read_mask(path), f"mask '{path}' cannot be decoded", "cut short")


def test_a_flipped_bit_in_a_mask_is_refused_by_check_and_by_train(kdbench, folder_dataset, tiny_recipe, tmp_path):
    data = shutil.copytree(folder_dataset, tmp_path / "data")
    path = data / "masks" / "train" / "train3.png"
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"IDAT") + 12] ^= 1
    path.write_bytes(whole)
    flags = ["--dataset", "folder", "--data-root", data]
    said = f"mask '{path}' cannot be decoded (its part 'IDAT' has a wrong checksum: it was damaged)"
    checked = kdbench("data", "check", *flags)
    assert (checked.code, said in checked.out) == (2, True)
    trained = kdbench("train", "--method", "baseline", *flags, "--recipe", tiny_recipe, "--runs", tmp_path / "runs")
    assert (trained.code, said in trained.err) == (2, True)
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


def test_damage_in_a_remark_costs_nothing(tmp_path):
    path = save(tmp_path / "mask.png", LABEL)
    whole = path.read_bytes()
    path.write_bytes(whole[:-12] + struct.pack(">I4s5sI", 5, b"tEXt", b"a\0bcd", 7) + whole[-12:])
    np.testing.assert_array_equal(read_mask(path), LABEL)


def test_images_of_png_are_verified(tmp_path):
    path = save(tmp_path / "image.png", IMAGE)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    path.write_bytes(data)
    refused(lambda: read_image(path), path, "checksum", "replace or remove it")
