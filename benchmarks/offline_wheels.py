"""Python packages for a machine without a network, in parts small enough to be carried one by one.

    python benchmarks/offline_wheels.py pack --out .whl --python 3.12 onnxruntime-gpu==1.31.1
    python benchmarks/offline_wheels.py join .whl/1 .whl/2 --target /tmp/site      # over there, in any order
    PYTHONPATH=/tmp/site python ...

``pack`` downloads the wheels (Linux on x86-64, without what they depend on), unpacks them into one tar and cuts it into
blocks that are compressed by themselves, so that ``join`` uses every core. Part N is ``<out>/N/part.xz``; together
they are an ordinary .tar.xz. Beside each lies ``manifest.json``, which describes them all. A target that comes first on
PYTHONPATH stands in front of an installed package of the same name.

``--only-capability 9.0`` takes the machine code for other cards out of the CUDA libraries (``benchmarks.fat_binary``):
such a package runs on cards of that compute capability alone.

Runs by its path with nothing but the standard library.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

if not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fat_binary import keep_capability

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
LEFT_OUT = (
    # The Python package links ONNX Runtime statically; this copy is for programs in C.
    "onnxruntime/capi/libonnxruntime.so",
    # Needs TensorRT's own libraries.
    "onnxruntime/capi/libonnxruntime_providers_tensorrt.so",
)
"""How the names of members begin that stay behind."""
PART_MIB, BLOCK_BYTES = 60, 8 << 20
FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9}]
PART, MANIFEST = "part.xz", "manifest.json"
SAFELY: dict = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Python 3.11 has it from 3.11.4 on; what is unpacked was packed here, and is held against its hash."""


class Problem(Exception):
    """What the user has to change, in one line."""


def download(packages: list[str], python: str, folder: Path) -> list[Path]:
    """The wheels of ``packages`` ("name==version"), without their dependencies."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--dest", str(folder),
               "--python-version", python, "--implementation", "cp", *platforms, *packages]  # fmt: skip
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Problem(f"pip download failed: {reason}")
    return sorted(folder.glob("*.whl"))


def pack(wheels: list[Path], out: Path, capability: str | None = None, part_bytes: int = PART_MIB << 20) -> dict:
    """Write the parts of ``wheels`` into ``out``/1, ``out``/2, …; return the manifest."""
    about: dict = {"wheels": [wheel.name for wheel in wheels], "only_capability": capability, "left_out": []}
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for wheel in wheels:
                _add_wheel(wheel, tar, about)
        archive.seek(0)
        blocks = iter(lambda: archive.read(BLOCK_BYTES), b"")
        whole = hashlib.sha256()
        parts: list[list[bytes]] = [[]]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for stream in pool.map(_compress, _hashed(blocks, whole)):
                if parts[-1] and sum(map(len, parts[-1])) + len(stream) > part_bytes:
                    parts.append([])
                parts[-1].append(stream)
    about["sha256"] = whole.hexdigest()
    about["parts"] = [
        {"sha256": hashlib.sha256(b"".join(part)).hexdigest(), "streams": [len(stream) for stream in part]}
        for part in parts
    ]
    for number, part in enumerate(parts, 1):
        folder = out / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PART).write_bytes(b"".join(part))
        (folder / MANIFEST).write_text(json.dumps({"part": number, **about}, indent=1) + "\n", encoding="utf-8")
    return about


def join(folders: list[Path], target: Path) -> int:
    """Check the parts in ``folders`` and unpack them into ``target``; return how many files that were.

    Raises:
        Problem: a part is missing or damaged, or belongs to another package.
    """
    found = {folder: _read_manifest(folder) for folder in folders}
    first = next(iter(found.values()))
    places = dict[int, Path]()
    for folder, manifest in found.items():
        if manifest["sha256"] != first["sha256"]:
            raise Problem(f"{folder} is a part of {_names(manifest)}, expected one of {_names(first)}: join each alone")
        places[manifest["part"]] = folder
    count = len(first["parts"])
    missing = [str(number) for number in range(1, count + 1) if number not in places]
    if missing:
        raise Problem(f"part {', '.join(missing)} of {count} of {_names(first)} is missing: name its folder too")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # hashlib and lzma work outside Python's lock.
        parts = list(pool.map(lambda number: _read_part(places[number], first["parts"][number - 1]), sorted(places)))
        whole = hashlib.sha256()
        blocks = pool.map(lzma.decompress, (stream for part in parts for stream in part))
        with tarfile.open(fileobj=_Chain(_hashed(blocks, whole)), mode="r|", bufsize=1 << 20) as tar:
            tar.extractall(target, **SAFELY)
            files = len(tar.getmembers())
    if whole.hexdigest() != first["sha256"]:
        raise Problem(f"{_names(first)} unpacked to something else than was packed: pack it again")
    return files


class _Chain(io.RawIOBase):
    """Blocks of bytes as one file to be read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._left = blocks, memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, fewer only at the end; all for -1."""
        pieces, got = [], 0
        while size < 0 or got < size:
            if not self._left:
                block = next(self._blocks, None)
                if block is None:
                    break
                self._left = memoryview(block)
            piece = self._left if size < 0 else self._left[: size - got]
            self._left = self._left[len(piece) :]
            pieces.append(piece)
            got += len(piece)
        return b"".join(pieces)


def _compress(block: bytes) -> bytes:
    return lzma.compress(block, check=lzma.CHECK_CRC32, filters=FILTERS)


def _hashed(blocks: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for block in blocks:
        digest.update(block)
        yield block


def _add_wheel(wheel: Path, tar: tarfile.TarFile, about: dict) -> None:
    """Put a wheel's modules where Python looks for them, and note in ``about`` what was left out."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            # NAME.data/purelib and /platlib are modules as well; scripts, headers and data are not for PYTHONPATH.
            name = re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", member.filename)
            if member.is_dir() or PurePosixPath(name).parts[0].endswith(".data"):
                continue
            if name.startswith(LEFT_OUT):
                about["left_out"].append(name)
                continue
            content = bytearray(archive.read(member))
            if about["only_capability"] and content[:4] == b"\x7fELF":
                major, minor = map(int, about["only_capability"].split("."))
                counts = keep_capability(content, (major, minor))
                if counts["blanked"][0]:
                    about.setdefault("machine_code", {})[name] = counts
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if member.external_attr >> 16 & 0o111 else 0o644
            tar.addfile(entry, io.BytesIO(content))


def _names(manifest: dict) -> str:
    return ", ".join("-".join(wheel.split("-")[:2]) for wheel in manifest["wheels"])


def _read_manifest(folder: Path) -> dict:
    path = folder / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Problem(f"{path} cannot be read ({error}), expected a folder written by pack: carry it again") from None


def _read_part(folder: Path, expected: dict) -> list[bytes]:
    """The compressed blocks of one part."""
    path = folder / PART
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Problem(f"{path} cannot be read ({error.strerror}): carry it again") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected["sha256"]:
        raise Problem(f"{path} is damaged: got sha256 {digest}, expected {expected['sha256']}: carry it again")
    stream = io.BytesIO(content)
    return [stream.read(size) for size in expected["streams"]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="offline_wheels", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="download wheels and write them as parts")
    packing.add_argument("packages", nargs="+", metavar="NAME==VERSION")
    packing.add_argument("--out", type=Path, required=True)
    packing.add_argument("--python", default="3.12", help="version of the other machine's Python (default 3.12)")
    packing.add_argument("--only-capability", metavar="9.0", help="leave out the machine code for other cards")
    packing.add_argument("--part-mib", type=int, default=PART_MIB, help=f"largest part (default {PART_MIB})")
    joining = commands.add_parser("join", help="check the parts and unpack them")
    joining.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    joining.add_argument("--target", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        if arguments.command == "join":
            print(f"{join(arguments.folders, arguments.target)} files in {arguments.target}")
            return
        if arguments.only_capability and not re.fullmatch(r"\d+\.\d", arguments.only_capability):
            raise Problem(f"--only-capability: got '{arguments.only_capability}', expected two numbers such as 9.0")
        with tempfile.TemporaryDirectory() as folder:
            wheels = download(arguments.packages, arguments.python, Path(folder))
            about = pack(wheels, arguments.out, arguments.only_capability, arguments.part_mib << 20)
        for number, part in enumerate(about["parts"], 1):
            print(f"{arguments.out / str(number)}: {sum(part['streams']) / 2**20:.1f} MiB")
    except Problem as problem:
        sys.exit(f"offline_wheels: {problem}")


if __name__ == "__main__":
    main()
