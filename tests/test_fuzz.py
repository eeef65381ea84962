"""200 damaged inputs: no traceback, no hang, no crash, and each refusal says something; `make fuzz` tries thousands."""

from __future__ import annotations

import pytest

from tests.fuzz.corpus import KINDS, make_corpus
from tests.fuzz.drive import BAD, Worker, require_sound, run_cases, shares, summary

CASES = 200


@pytest.fixture(scope="module")
def corpus(made_once):
    return made_once("fuzz-corpus", make_corpus)


@pytest.fixture(scope="module")
def worker(corpus, shared_folder):
    """One for all cases: a second would import and trace everything again."""
    with Worker(corpus, seed=0, traced=shared_folder / "traced") as started:
        yield started


@pytest.mark.needs("onnxruntime")
def test_every_command_accepts_the_sound_file(worker):
    require_sound(worker, slow=False)


@pytest.mark.needs("onnxruntime")
def test_damaged_inputs_end_in_one_line_or_do_no_harm(worker):
    results = list(run_cases(worker, shares(CASES, slow=0.1)))
    bad = [f"{r['outcome']}: {r['kind']} {r['number']}: {r['said'][-300:]}" for r in results if r["outcome"] in BAD]
    assert not bad, "\n".join(bad)
    found = summary(results)
    assert found["cases"] == len(results) >= CASES
    assert found["clean"] > found["accepted"] > 0


def test_every_kind_has_its_share_and_says_why_what_is_accepted_is_harmless():
    counts = shares(5000, slow=0.3)
    assert sum(counts.values()) == 5000
    assert set(counts) == {kind.name for kind in KINDS}
    assert min(counts.values()) > 50
    assert all(kind.harmless for kind in KINDS)


def test_the_driver_sees_what_hangs_and_what_crashes(corpus):
    with Worker(corpus, 0, stand_in="import sys, time; sys.stdin.readline(); time.sleep(60)") as worker:
        assert worker.run("a photo", 0, limit_s=0.1, start_s=0.5)["outcome"] == "hang"
    with Worker(corpus, 0, stand_in="import os, sys; sys.stdin.readline(); os.abort()") as worker:
        assert worker.run("a photo", 0)["outcome"] == "crash"


def test_a_summary_counts_by_kind():
    results = [
        {"kind": "a photo", "outcome": "accepted", "way": "a bit"},
        {"kind": "a photo", "outcome": "clean", "way": "cut"},
        {"kind": "a mask", "outcome": "traceback", "way": "cut"},
    ]
    found = summary(results)
    assert (found["cases"], found["accepted"], found["clean"], found["traceback"]) == (3, 1, 1, 1)
    assert found["kinds"]["a photo"]["accepted_damage"] == {"a bit": 1}
    assert "JPEG has no checksums" in found["kinds"]["a photo"]["harmless_because"]
    assert found["kinds"]["a mask"]["traceback"] == 1
