"""``state.pt`` carries a hash: a flipped bit is refused, files of before are read."""

from __future__ import annotations

import random

import pytest
import torch

from kdbench.errors import BadInput
from trainers.state_file import read_state, write_state

STATE = {"recipe": "{}", "epochs_done": 3, "rows": [{"loss": 0.5}], "objective": {"w": torch.arange(6.0)}}


def same(found):
    return (
        found["epochs_done"] == 3
        and found["rows"] == STATE["rows"]
        and bool((found["objective"]["w"] == STATE["objective"]["w"]).all())
    )


def test_it_comes_back_and_torch_reads_it_as_ever(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, STATE)
    assert same(read_state(path, ""))
    assert same(torch.load(path, weights_only=True))


def test_every_flipped_bit_is_refused_in_one_line(tmp_path):
    path = tmp_path / "state.pt"
    write_state(path, STATE)
    sound = path.read_bytes()
    bits = sorted(
        {*random.Random(0).sample(range(8 * len(sound)), 600), *range(8 * (len(sound) - 110), 8 * len(sound))}
    )
    for at in bits:
        damaged = bytearray(sound)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(BadInput) as caught:
            read_state(path, "train without --resume")
        assert str(caught.value) == (
            f"'{path}' was damaged since it was written (its hash does not fit): train without --resume"
        ), at


def test_a_file_of_before_is_read(tmp_path):
    path = tmp_path / "state.pt"
    torch.save(STATE, path)
    assert same(read_state(path, ""))


def test_a_resume_from_a_flipped_bit_is_refused(kdbench, tiny_arguments, tmp_path):
    folder = tmp_path / "runs/folder/baseline"
    folder.mkdir(parents=True)
    write_state(folder / "state.pt", STATE)
    damaged = bytearray((folder / "state.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 16
    (folder / "state.pt").write_bytes(damaged)
    done = kdbench("train", "--method", "baseline", *tiny_arguments, "--runs", tmp_path / "runs", "--resume")
    assert done.code == 2
    assert (
        "baseline/state.pt' was damaged since it was written (its hash does not fit): train without --resume"
        in done.err
    )
