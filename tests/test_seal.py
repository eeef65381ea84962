"""Sidecars are sealed: any flipped bit that changes what they say is found; those of before have no seal."""

from __future__ import annotations

import json

import pytest

from kdbench.errors import BadInput
from kdbench.runs.files import read_json, seal_of, write_json, write_sealed

FIELDS = {"schema_version": 1, "kind": "checkpoint", "miou": 0.25, "classes": ["a", "größer"], "lr": 1e-05, "t": None}


def test_every_flipped_bit_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "student.json"
    write_sealed(path, FIELDS)
    sound = path.read_bytes()
    said = read_json(path, "kdbench train")
    assert {key: value for key, value in said.items() if key != "seal"} == FIELDS
    refused = 0
    for at in range(8 * len(sound)):
        damaged = bytearray(sound)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            assert read_json(path, "kdbench train") == said, f"bit {at}"
        except BadInput:
            refused += 1
    assert refused > 0.99 * 8 * len(sound)


def test_the_message_says_how_to_mend(tmp_path):
    path = tmp_path / "student.json"
    write_json(path, {**FIELDS, "seal": seal_of({**FIELDS, "miou": 0.26})})
    with pytest.raises(BadInput) as caught:
        read_json(path, "kdbench train")
    assert str(caught.value) == (
        f"'{path}' was damaged or edited since it was written (its seal does not fit): make it again with "
        "`kdbench train`, or take the field 'seal' out to trust what it says"
    )


def test_a_file_of_before_has_none_and_another_order_is_the_same(tmp_path):
    path = tmp_path / "student.json"
    write_json(path, FIELDS)
    assert read_json(path, "kdbench train") == FIELDS
    sealed = {**FIELDS, "seal": seal_of(FIELDS)}
    path.write_text(json.dumps(dict(reversed(sealed.items()))))
    assert read_json(path, "kdbench train") == sealed


def test_trainings_and_exports_are_sealed(trained_runs, exported):
    sidecars = [
        *trained_runs.rglob("student.json"),
        *trained_runs.rglob("teacher.json"),
        *exported.runs.rglob("mask.json"),
    ]
    assert len(sidecars) >= 5
    for path in sidecars:
        assert read_json(path, "")["seal"] == seal_of(
            {k: v for k, v in json.loads(path.read_text()).items() if k != "seal"}
        )
