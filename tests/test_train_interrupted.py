"""``kdbench train`` under bad luck: two at once, killed anywhere, a full disk, files that others changed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPOSITORY
from tests.trainings import equal, history, interrupt_after


@pytest.fixture
def runs(trained_runs, tmp_path):
    return shutil.copytree(trained_runs, tmp_path / "runs")


@pytest.fixture
def baseline(kdbench, tiny_arguments, tmp_path):
    """Run ``kdbench train --method baseline`` into a folder of this test's own."""
    return lambda *more: kdbench("train", "--method", "baseline", *tiny_arguments, "--runs", tmp_path, *more)


# Two at once


def test_a_second_training_in_the_same_folder_is_refused_and_a_killed_one_does_not_block(
    kdbench, tiny_arguments, tmp_path, trained_runs
):
    shutil.copytree(trained_runs / "folder" / "teacher", tmp_path / "folder" / "teacher")
    arguments = [*map(str, tiny_arguments), "--runs", str(tmp_path)]
    command = [sys.executable, "-m", "kdbench", "train", "--method", "baseline", "--epochs", "5000", *arguments]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    folder = tmp_path / "folder" / "baseline"
    try:
        deadline = time.monotonic() + 120
        while not (folder / "student.json").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None
        for second in ("baseline", "response,baseline"):
            done = kdbench("train", "--method", second, *arguments)
            assert (done.code, done.err) == (
                2,
                f"kdbench: '{folder}' is in use by another `kdbench train`, expected one training per folder: "
                "wait for it, or give this one another --runs\n",
            )
        assert process.poll() is None
        # Another method in the same tree, and another seed of the same one, are nobody else's.
        done = kdbench("train", "--method", "response", "--epochs", "1", *arguments)
        assert done.code == 0, done.err
        done = kdbench("train", "--method", "baseline", "--seeds", "7", "--epochs", "1", *arguments)
        assert done.code == 0, done.err
    finally:
        process.kill()
        process.wait()
    assert (folder / ".lock").exists()
    done = kdbench("train", "--method", "baseline", "--epochs", "1", *arguments)
    assert done.code == 0, done.err


def test_what_a_killed_writer_left_is_removed(baseline, tmp_path):
    folder = tmp_path / "folder" / "baseline"
    folder.mkdir(parents=True)
    left = [folder / name for name in (".state-abcd1234.pt", ".student-abcd1234.safetensors", ".student-abcd1234.json")]
    for path in left:
        path.write_bytes(b"half")
    assert baseline("--epochs", "1").code == 0
    assert not any(path.exists() for path in left)


# Interrupted


def test_interrupted_over_a_finished_training_it_is_not_taken_for_finished(baseline, tmp_path, monkeypatch):
    """The old checkpoint is of the same recipe, and its history was already dropped."""
    folder = tmp_path / "folder" / "baseline"
    assert baseline("--seeds", "0,1").code == 0
    before = [history(folder), history(folder / "seed-1")]
    interrupt_after(monkeypatch, "open_logs", 1)
    assert baseline("--seeds", "0,1").code == 130
    monkeypatch.undo()
    assert history(folder) == []
    done = baseline("--seeds", "0,1", "--resume")
    assert (done.code, done.err) == (0, "")
    assert [history(folder), history(folder / "seed-1")] == before


def test_a_later_seed_of_an_interrupted_run_is_trained_though_an_older_one_is_there(baseline, tmp_path, monkeypatch):
    folder = tmp_path / "folder" / "baseline" / "seed-1"
    assert baseline("--seeds", "0,1").code == 0
    first = (folder / "student.safetensors").stat().st_mtime_ns
    interrupt_after(monkeypatch, "save_state", 1)
    assert baseline("--seeds", "0,1").code == 130
    monkeypatch.undo()
    assert baseline("--seeds", "0,1", "--resume").code == 0
    assert (folder / "student.safetensors").stat().st_mtime_ns > first


@pytest.mark.parametrize("content", ["", '{"epoch": 1', "nonsense\n" * 5])
def test_the_history_is_resumed_from_the_state_whatever_the_file_holds(baseline, tmp_path, monkeypatch, content):
    """After a power failure the file may be shorter than the state says, or hold zeros."""
    folder = tmp_path / "folder" / "baseline"
    interrupt_after(monkeypatch, "save_state", 1)
    assert baseline().code == 130
    monkeypatch.undo()
    (folder / "history.jsonl").write_text(content)
    assert baseline("--resume").code == 0
    resumed = history(folder)
    assert baseline().code == 0
    assert resumed == history(folder)
    assert len(resumed) == 2


def test_nothing_is_learnt_from_an_unfinished_teacher(kdbench, tiny_arguments, tmp_path, monkeypatch):
    interrupt_after(monkeypatch, "save_state", 1)
    command = [*tiny_arguments, "--runs", tmp_path]
    assert kdbench("train", "--method", "teacher", *command).code == 130
    monkeypatch.undo()
    done = kdbench("train", "--method", "response", *command)
    assert done.code == 2
    assert "is not finished (epoch 1 of 2 is saved): go on with `kdbench train --method teacher" in done.err
    assert len(done.err.splitlines()) == 1


def test_resume_trains_a_damaged_checkpoint_anew_and_says_so(kdbench, tiny_arguments, runs):
    folder = runs / "folder" / "baseline"
    whole = {name: tensor.clone() for name, tensor in load_file(folder / "student.safetensors").items()}
    (folder / "student.safetensors").write_bytes((folder / "student.safetensors").read_bytes()[:-1])
    command = ["train", "--method", "baseline", *tiny_arguments, "--runs", runs, "--resume"]
    done = kdbench(*command)
    assert done.code == 0
    assert done.err == (
        f"kdbench: '{folder / 'student.safetensors'}' is not the file that its sidecar describes: training anew\n"
    )
    again = load_file(folder / "student.safetensors")
    assert equal(whole, again)
    (folder / "student.json").write_text('{"schema_version": 1}')
    assert "is no sidecar of a training (method: Field required)" in kdbench(*command).err


@pytest.mark.parametrize("broken", [b"", b"PK", "other"])
def test_a_broken_state_is_one_line(baseline, tmp_path, broken):
    folder = tmp_path / "folder" / "baseline"
    folder.mkdir(parents=True)
    if broken == "other":
        torch.save({"epochs_done": 1}, folder / "state.pt")
    else:
        (folder / "state.pt").write_bytes(broken)
    done = baseline("--resume")
    assert done.code == 2
    assert f"--resume: '{folder / 'state.pt'}' is corrupt (" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM to catch")
def test_sigterm_leaves_no_half_written_file(tmp_path):
    code = (
        "import sys, time, kdbench.cli\n"
        "app = sys.modules['kdbench.cli.app']\n"
        "from pathlib import Path\n"
        "from kdbench.runs.files import atomic_path\n"
        "def work():\n"
        f"    with atomic_path(Path({str(tmp_path)!r}) / 'x.bin') as temporary:\n"
        "        temporary.write_bytes(b'half'); print('ready', flush=True); time.sleep(60)\n"
        "app.app = work\n"
        "app.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert not list(tmp_path.iterdir())


# The disk


def test_a_full_disk_keeps_what_was_saved_and_says_so(baseline, tmp_path, monkeypatch):
    write, count = Path.write_bytes, []

    def full(path, data):
        count.append(1)
        if len(count) == 5:  # the mark of the start, checkpoint and state of epoch 1, checkpoint of epoch 2, its state
            write(path, bytes(data)[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    done = baseline()
    folder = tmp_path / "folder" / "baseline"
    assert (done.code, done.err) == (
        1,
        f"kdbench: '{folder / 'state.pt'}' cannot be written (No space left on device); what was written before is "
        "kept: make room or mend the folder, then run again\n",
    )
    monkeypatch.undo()
    assert not list(folder.glob(".state-*"))
    assert baseline("--resume").code == 0
    resumed = history(folder)
    assert baseline().code == 0
    assert resumed == history(folder)


@pytest.mark.needs("pydantic", "rich")
@pytest.mark.skipif(os.name != "posix", reason="a limit of the operating system")
def test_a_file_size_limit_is_one_line(tiny_arguments, tmp_path):
    """The limit is real, so that it is the libraries' own writers that meet it."""
    command = [sys.executable, "-m", "kdbench", "train", "--method", "baseline", *map(str, tiny_arguments)]
    shell = f'ulimit -f 12000; exec "$@" --runs "{tmp_path}"'  # 12 MB: the checkpoint fits, the state does not
    done = subprocess.run(["bash", "-c", shell, "bash", *command], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"kdbench: '{tmp_path / 'folder' / 'baseline' / 'state.pt'}' cannot be written (File too large)"
    )
    assert "Traceback" not in done.stderr


def test_runs_that_cannot_be_made_is_one_line(kdbench, tiny_arguments, tmp_path):
    (tmp_path / "file").write_text("")
    done = kdbench("train", "--method", "baseline", *tiny_arguments, "--runs", tmp_path / "file" / "runs")
    assert done.code == 2
    assert "cannot be made, written and locked (Not a directory): name a folder that can be" in done.err


# Odd input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teacher = 3\n", "teacher: got 3, expected a table: [teacher], then arch = …"),
        ("lr = inf\n", "lr: got inf, input should be a finite number"),
        ("temperature = inf\n", "temperature: got inf, input should be a finite number"),
        ("batch_size = 1\n", "batch_size: got 1, input should be greater than or equal to 2"),
        ("seed = 9223372036854775807\n", "seed: got 9223372036854775807, input should be less than or equal to"),
        ("size = [99999999999, 64]\n", "size (99999999999, 64), expected 32 x 32 to 16384 x 16384"),
    ],
)
def test_a_recipe_with_odd_values_is_one_line(kdbench, folder_dataset, tmp_path, text, message):
    (tmp_path / "odd.toml").write_text(text, encoding="utf-8")
    done = kdbench(
        "train", "--method", "baseline", "--dataset", "folder", "--data-root", folder_dataset,
        "--recipe", tmp_path / "odd.toml", "--runs", tmp_path / "runs",
    )  # fmt: skip
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "²"], "--seeds: got '²', expected different whole numbers"),
        (["--seeds", "0,00"], "--seeds: got '0,00', expected different whole numbers"),
        (["--seeds", "99999999999999999999"], "expected different whole numbers below 2^31"),
        (["--size", "99999999999x64"], "--size: got '99999999999x64'"),
        (
            ["--weights", "w.pth"],
            "--teacher-weights: got 'w.pth', but they are the teacher's start: add teacher to --method",
        ),
    ],
)
def test_odd_flags_are_one_line(baseline, tmp_path, flags, message):
    done = baseline(*flags)
    assert done.code == 2
    assert message in done.err
    assert not list(tmp_path.iterdir())


def test_a_validation_split_without_labels_is_one_line(kdbench, tiny_arguments, folder_dataset, tmp_path):
    import numpy as np
    from PIL import Image

    data = shutil.copytree(folder_dataset, tmp_path / "data")
    for path in (data / "masks" / "val").iterdir():
        Image.fromarray(np.full((64, 96), 255, dtype=np.uint8)).save(path)
    command = ("train", "--method", "baseline", *tiny_arguments, "--data-root", data, "--runs", tmp_path / "r")
    done = kdbench(*command)
    assert (done.code, "4 of 4 masks are ignored in every pixel" in done.err) == (2, True)
    accepted = kdbench(*command, "--accept-data")
    assert accepted.code == 2
    assert "dataset 'folder': its val split has no labelled pixel, expected some to measure mIoU on" in accepted.err
