"""What every exported artifact is checked for before an engine opens it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.errors import BadInput, Missing
from kdbench.formats import FORMATS, PRECISIONS
from kdbench.runs.files import sha256
from kdbench.runs.folder import RunFolder
from kdbench.runs.tree import sidecar_path

if TYPE_CHECKING:
    from kdbench.data.preprocessing import Size


def read_export(artifact: Path, export_format: str, size: Size | None) -> dict[str, Any]:
    """The sidecar of an export that is whole, is the file that it describes, and is not older than its checkpoint.

    Args:
        artifact: ``<method>/exports/<format>-<precision>/<output>.<suffix>``.
        size: (H, W) that the caller needs, or None.

    Raises:
        Missing: no such export. BadInput: it does not fit its sidecar, its checkpoint, or ``size``.
    """
    parents = artifact.absolute().parents  # a path typed inside the export's folder has none of its own
    if len(parents) < 4:
        raise BadInput(f"'{artifact}': expected an export inside <method>/exports/<format>-<precision>/")
    method, precision = parents[2].name, parents[0].name.removeprefix(f"{export_format}-")
    command = f"kdbench export --method {method} --format {export_format}"
    if precision in PRECISIONS and precision != "fp32":
        command += f" --precision {precision}"
    folder = RunFolder(parents[2])
    if folder.imported.is_file() and (export_format, precision) == ("onnx", "fp32"):
        command = f"kdbench import FILE --name {method} --overwrite"
    if not artifact.is_file():
        raise Missing(f"no {export_format} export '{artifact}': make it with `{command} --output {artifact.stem}`")
    from kdbench.runs.sidecar import read_export_sidecar

    sidecar = read_export_sidecar(sidecar_path(artifact), command)
    if sidecar["format"] != export_format:
        raise BadInput(
            f"'{sidecar_path(artifact)}' describes a file of format {sidecar['format']:.80}, expected the sidecar of "
            f"an {export_format} export: make it again with `{command}`"
        )
    if precision in PRECISIONS and sidecar["precision"] != precision:
        # Its own hash fits: a whole export, copied into the folder of another precision.
        raise BadInput(
            f"'{artifact}' is an export in {sidecar['precision']} by its sidecar, its folder is that of {precision}: "
            f"make it again with `{command}`"
        )
    if sha256(artifact) != sidecar["sha256"]:
        raise BadInput(
            f"'{artifact}' is not the file that its sidecar describes (sha256 differs): make it again with `{command}`"
        )
    if (origin := folder.origin_sha256()) is not None and origin != sidecar["checkpoint_sha256"]:
        again = "the file was imported" if folder.imported.is_file() else "its checkpoint was trained"
        raise BadInput(f"'{artifact}' was exported before {again} again: export it with `{command}`")
    for key in FORMATS[export_format].companions:
        file = FORMATS[export_format].companion(artifact, key)
        if not file.is_file() or sha256(file) != sidecar.get(key, {}).get("sha256"):
            found = "is not the file that the sidecar describes (sha256 differs)" if file.is_file() else "is missing"
            raise BadInput(
                f"'{file}', the {key} of '{artifact.name}', {found}: make both again with "
                f"`kdbench export --method {sidecar['method']} --format {export_format} "
                f"--precision {sidecar['precision']}`"
            )
    built = tuple(sidecar["size"])
    if size is not None and built != size:
        raise BadInput(
            f"'{artifact}' takes images of {built[0]}x{built[1]}, {size[0]}x{size[1]} was asked for: "
            f"export again with `{command} --size {size[0]}x{size[1]}`"
        )
    return sidecar
