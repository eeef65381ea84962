"""benchmarks/offline_wheels.py and benchmarks/fat_binary.py: tiny wheels there and back, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile

import pytest

from benchmarks import offline_wheels
from benchmarks.fat_binary import ELF, MAGIC, PTX, containers, keep_capability
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "offline_wheels.py"

# Wheels


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A package of 400 kB that does not compress, with members of every kind."""
    path = tmp_path_factory.mktemp("wheel") / "onnxruntime_gpu-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("onnxruntime/__init__.py", "where = 'carried'\n")
        archive.writestr("onnxruntime/capi/noise.bin", os.urandom(400_000))
        archive.writestr("onnxruntime/capi/libonnxruntime.so.1.0", b"for programs in C")
        archive.writestr("onnxruntime_gpu-1.0.data/purelib/beside.py", "")
        archive.writestr("onnxruntime_gpu-1.0.data/data/etc/beside.json", "{}")
        archive.writestr("onnxruntime_gpu-1.0.dist-info/METADATA", "Name: onnxruntime-gpu\nVersion: 1.0\n")
        archive.writestr("onnxruntime_gpu-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return path


@pytest.fixture
def parts(wheel, tmp_path, monkeypatch):
    """Its parts, of at most 150 kB."""
    monkeypatch.setattr(offline_wheels, "BLOCK_BYTES", 100_000)
    offline_wheels.pack([wheel], tmp_path / "whl", part_bytes=150_000)
    return sorted((tmp_path / "whl").iterdir())


def join(*arguments):
    """By the script's path, in isolation: neither kdbench nor anything installed is there."""
    command = [sys.executable, "-I", "-S", SCRIPT, "join", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd="/")


def test_parts_are_small_and_joined_in_any_order(parts, wheel, tmp_path):
    assert [part.name for part in parts] == ["1", "2", "3", "4"]
    assert all((part / "part.xz").stat().st_size <= 150_000 for part in parts)
    manifest = json.loads((parts[0] / "manifest.json").read_text())
    assert manifest["left_out"] == ["onnxruntime/capi/libonnxruntime.so.1.0"]
    done = join(*reversed(parts), "--target", tmp_path / "site")
    assert (done.returncode, done.stderr) == (0, "")
    found = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.*")}
    assert found == {
        "onnxruntime/__init__.py", "onnxruntime/capi/noise.bin", "beside.py", "onnxruntime_gpu-1.0.dist-info",
    }  # fmt: skip
    with zipfile.ZipFile(wheel) as archive:
        noise = archive.read("onnxruntime/capi/noise.bin")
    assert (tmp_path / "site" / "onnxruntime" / "capi" / "noise.bin").read_bytes() == noise


def test_the_target_stands_in_front_of_an_installed_package(parts, tmp_path):
    assert join(*parts, "--target", tmp_path / "site").returncode == 0
    done = subprocess.run(
        [sys.executable, "-c", "import onnxruntime; print(onnxruntime.where)"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "carried\n"


def damage(parts):
    path = parts[2] / "part.xz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def mix(parts):
    path = parts[0] / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": "0", "wheels": ["other-2-any.whl"]}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda parts: parts.pop(1), "part 2 of 4 of onnxruntime_gpu-1.0 is missing: name its folder too"),
        (damage, "3/part.xz is damaged: got sha256 "),
        (lambda parts: (parts[3] / "part.xz").unlink(), "4/part.xz cannot be read (No such file or directory): carry"),
        (lambda parts: shutil.rmtree(parts[3]), "4/manifest.json cannot be read ("),
        (mix, "is a part of onnxruntime_gpu-1.0, expected one of other-2: join each alone"),
    ],
)
def test_what_join_refuses(parts, tmp_path, harm, message):
    harm(parts)
    done = join(*parts, "--target", tmp_path / "site")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "site").exists()


def test_pack_downloads_with_pip(wheel, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pip")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    out = tmp_path / "whl"
    monkeypatch.setattr(sys, "argv", ["offline_wheels", "pack", "--out", str(out), "onnxruntime-gpu==1.0"])
    offline_wheels.main()
    assert capsys.readouterr().out == f"{out / '1'}: 0.4 MiB\n"
    monkeypatch.setattr(sys, "argv", ["offline_wheels", "pack", "--out", str(out), "onnxruntime-gpu==2.0"])
    with pytest.raises(SystemExit, match=r"^offline_wheels: pip download failed: .*onnxruntime-gpu==2.0$"):
        offline_wheels.main()


# Fat binaries


def entry(kind, capability, payload):
    """Header of 64 bytes as nvcc writes it; the fields that are not read are filled."""
    return struct.pack("<HHIQIIII", kind, 0x101, 64, len(payload), 1, 2, 3, capability) + b"\xee" * 32 + payload


def container(*entries):
    return struct.pack("<IHHQ", MAGIC, 1, 16, sum(map(len, entries))) + b"".join(entries)


def library(*containers):
    """An ELF file with a section of names and one of fat binaries, 8 bytes of padding between them."""
    fat, names = bytes(8).join(containers), b"\0.shstrtab\0.nv_fatbin\0"
    at = {"names": 64, "fat": 64 + len(names), "table": 64 + len(names) + len(fat)}
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 0x28, at["table"])
    struct.pack_into("<HHH", header, 0x3A, 64, 3, 1)
    sections = [(0, 0, 0), (1, at["names"], len(names)), (11, at["fat"], len(fat))]
    table = b"".join(struct.pack("<IIQQQQ24x", name, 1, 0, 0, start, size) for name, start, size in sections)
    return bytearray(bytes(header) + names + fat + table)


def payloads(content):
    return [[bytes(content[e.start : e.start + e.size]) for e in entries] for entries in containers(content)]


def test_only_the_cards_own_machine_code_stays():
    content = library(
        container(entry(ELF, 80, b"a" * 40), entry(ELF, 90, b"b" * 24), entry(PTX, 90, b"c" * 16)),
        container(entry(ELF, 120, b"d" * 8)),
    )
    before = bytes(content)
    assert [[(e.kind, e.capability) for e in entries] for entries in containers(content)] == [
        [(ELF, (8, 0)), (ELF, (9, 0)), (PTX, (9, 0))], [(ELF, (12, 0))],
    ]  # fmt: skip
    assert keep_capability(content, (9, 0)) == {"kept": (1, 24), "blanked": (3, 64)}
    assert payloads(content) == [[bytes(40), b"b" * 24, bytes(16)], [bytes(8)]]
    assert len(content) == len(before)
    assert [i for i, (a, b) in enumerate(zip(before, content, strict=True)) if a != b and b] == []
    assert sum(a != b for a, b in zip(before, content, strict=True)) == 64


def test_without_code_for_the_card_what_it_can_run_stays():
    """PTX, which is compiled for it, and the nearest lower capability of its major version."""
    content = library(
        container(*(entry(ELF, sm, bytes([sm]) * 8) for sm in (75, 80, 86, 90)), entry(PTX, 80, b"p" * 8))
    )
    keep_capability(content, (8, 9))
    assert payloads(content) == [[bytes(8), bytes(8), b"\x56" * 8, bytes(8), b"p" * 8]]


def test_a_container_that_does_not_end_where_it_says():
    content = library(container(entry(ELF, 90, b"b" * 24)))
    struct.pack_into("<Q", content, content.index(struct.pack("<I", MAGIC)) + 8, 80)
    with pytest.raises(ValueError, match="the entry at byte .* does not fit into its fat binary, which ends at"):
        keep_capability(content, (9, 0))
    with pytest.raises(ValueError, match="no fat binary at byte .*: got 0xbadbadba, expected 0xba55ed50"):
        list(containers(library(b"\xba\xad\xdb\xba" * 4)))


def test_pack_blanks_and_records_it(tmp_path):
    content = library(container(entry(ELF, 80, b"a" * 40), entry(ELF, 90, b"b" * 24)))
    with zipfile.ZipFile(tmp_path / "fast-1-any.whl", "w") as archive:
        archive.writestr("fast/kernels.so", bytes(content))
    about = offline_wheels.pack([tmp_path / "fast-1-any.whl"], tmp_path / "whl", "9.0")
    assert about["machine_code"] == {"fast/kernels.so": {"kept": (1, 24), "blanked": (1, 40)}}
    offline_wheels.join([tmp_path / "whl" / "1"], tmp_path / "site")
    assert payloads((tmp_path / "site" / "fast" / "kernels.so").read_bytes()) == [[bytes(40), b"b" * 24]]
