"""Checkpoints: safetensors with a JSON sidecar of the same stem, which has their hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbench.errors import BadInput, Missing
from kdbench.runs.files import SCHEMA_VERSION, WEIGHTS, atomic_path, read_json, require_regular, sha256, write_sealed
from kdbench.runs.tree import sidecar_path


def save_checkpoint(path: Path, state: dict[str, Any], sidecar: dict[str, Any]) -> None:
    """Write ``state`` (name → tensor) as safetensors, then its sidecar with the hash of what was written."""
    from safetensors.torch import save

    with atomic_path(path) as temporary:
        # Through bytes: on a full disk save_file raises its own error, which looks like any other.
        temporary.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))
    write_sealed(sidecar_path(path), {"schema_version": SCHEMA_VERSION, **sidecar, "sha256": sha256(path)})


def load_checkpoint(path: Path, made_by: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint and its sidecar: (state dict, sidecar).

    Raises:
        Missing: no checkpoint. BadInput: cut short, not safetensors, or not the file that the sidecar describes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        raise Missing(f"no checkpoint '{path}': make it with `{made_by}`")
    try:
        from kdbench.runs.sidecar import read_checkpoint_sidecar as read_sidecar
    except ModuleNotFoundError:
        # A GPU machine that is lent for minutes may lack pydantic; the hash is checked there too.
        read_sidecar = read_json
    sidecar = read_sidecar(sidecar_path(path), made_by)
    require_regular(path, f"make it again with `{made_by}`", WEIGHTS)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"checkpoint '{path}' is corrupt ({error}): make it again with `{made_by}`") from error
    if sha256(path) != sidecar.get("sha256"):
        raise BadInput(
            f"checkpoint '{path}' is not the file that its sidecar describes (sha256 differs): "
            f"make both again with `{made_by}`"
        )
    return state, sidecar
