"""What travels inside an ONNX file, so that it needs nothing beside it: the entry ``kdbench`` of its metadata.

The entry is one JSON object: schema_version, method, dataset, classes, palette (RGB per class), size (H, W), output
("mask" or "logits"), precision, normalisation (mean and std per channel, of 0..1 RGB), checkpoint_sha256, git (of the
export) and training (the checkpoint's sidecar).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.errors import BadInput
from kdbench.runs.files import SCHEMA_VERSION, parse_json

if TYPE_CHECKING:
    from onnx import ModelProto

ENTRY = "kdbench"


def write_metadata(model: ModelProto, about: dict[str, Any]) -> None:
    """Put ``about`` into the model, in place of an entry that it already has."""
    entries = {prop.key: prop.value for prop in model.metadata_props}
    entries[ENTRY] = json.dumps({"schema_version": SCHEMA_VERSION, **about}, allow_nan=False)
    del model.metadata_props[:]
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)


def read_metadata(entries: Mapping[str, str], path: Path) -> dict[str, Any] | None:
    """The object that ``write_metadata`` wrote, or None for a file from elsewhere.

    Args:
        entries: ``session.get_modelmeta().custom_metadata_map``, or {p.key: p.value for p in model.metadata_props}.
        path: the file, for the error.

    Raises:
        BadInput: the entry is damaged, or of another version of kdbench.
    """
    if ENTRY not in entries:
        return None
    try:
        about = parse_json(entries[ENTRY])
    except ValueError:
        about = None
    if not isinstance(about, dict) or about.get("schema_version") != SCHEMA_VERSION:
        raise BadInput(
            f"'{path}': its metadata entry '{ENTRY}' is damaged or of another kdbench, expected JSON with "
            f"schema_version {SCHEMA_VERSION}: export it again with `kdbench export`"
        )
    from kdbench.runs.sidecar import OnnxEntry, validated

    return validated(OnnxEntry, about, f"'{path}': its metadata entry '{ENTRY}' is damaged", "kdbench export")
