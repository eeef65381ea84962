"""The process in which commands meet damaged files: ``python -m tests.fuzz.worker CORPUS SEED LOG TRACED``.

It reads numbers of cases from stdin, a line each, and answers each with a line of JSON. That it hangs or crashes is
seen by who started it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from kdbench.errors import one_line
from kdbench.machine.ending import die_with_parent
from kdbench.runs.files import SEAL, write_sealed
from tests.command import run_main
from tests.forking import look_for_cycles_seldom
from tests.fuzz.corpus import KINDS, Kind, fit, quick_latency
from tests.fuzz.damage import DAMAGES
from tests.traced import graphs_traced_once

FITTED = 0.8
"""Share of the cases in which the hash of a damaged file is made to fit."""
ODD_FILE = 0.06
"""Share of the cases in which what stands in a file's place is no file."""
ODD_FILES = ("pipe", "folder", "link to itself", "device", "giant", "nothing")


class Corpus:
    """A copy of the corpus that is as it was before each case."""

    def __init__(self, sound: Path, at: Path) -> None:
        shutil.copytree(sound, at)
        self.sound, self.at = sound, at
        # Paths in sidecars lead to where the corpus was made.
        for path in at.rglob("*.json"):
            text = path.read_text(encoding="utf-8").replace(str(sound), str(at))
            path.write_text(text, encoding="utf-8")
            if SEAL in (document := json.loads(text)):
                write_sealed(path, document)
        self.about = {path: self._stat(path) for path in self._files()}
        self.kept = {path: path.read_bytes() for path in self.about if path.suffix == ".json"}

    def _files(self) -> list[Path]:
        return [Path(root) / name for root, _, names in os.walk(self.at) for name in names]

    @staticmethod
    def _stat(path: Path) -> tuple[int, ...]:
        about = path.lstat()
        return about.st_ino, about.st_size, about.st_mtime_ns, about.st_mode

    def restore(self) -> None:
        for path, about in self.about.items():
            if os.path.lexists(path) and self._stat(path) == about:
                continue
            _remove(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path in self.kept:
                path.write_bytes(self.kept[path])
            else:
                shutil.copy(self.sound / path.relative_to(self.at), path)
            self.about[path] = self._stat(path)
        for path in self._files():
            if path not in self.about:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def damaged(kind: Kind, path: Path, rng: random.Random) -> str:
    """Damage a file in its place; what was done."""
    if rng.random() < ODD_FILE and hasattr(os, "mkfifo"):
        way = rng.choice(ODD_FILES)
        path.unlink()
        if way == "pipe":
            os.mkfifo(path)
        elif way == "folder":
            path.mkdir()
        elif way == "link to itself":
            path.symlink_to(path)
        elif way == "device":
            path.symlink_to("/dev/zero")
        elif way == "giant":
            with path.open("wb") as file:
                file.truncate(2**36)
        return f"no file: {way}"
    made, way = rng.choice(DAMAGES[kind.form])(path.read_bytes(), rng)
    path.write_bytes(made)
    return way


def case(number: int, kind: Kind, seed: int, corpus: Corpus) -> dict:
    """Run one case; what is said of it is the same on every machine, given the seed."""
    corpus.restore()
    rng = random.Random(f"{seed} {kind.name} {number}")
    command = rng.choice(kind.commands)
    if number < 0:  # each command on the sound file, so that it is known to be read at all
        command, way = kind.commands[number], "nothing"
    else:
        way = damaged(kind, corpus.at / kind.file, rng)
    if (
        number >= 0
        and kind.fitted
        and rng.random() < FITTED
        and (corpus.at / kind.file).is_file()
        and "giant" not in way
    ):
        fit(kind, corpus.at)
    arguments = kind.arguments(command, corpus.at)
    out, err, raised = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), quick_latency():
        try:
            code = run_main(arguments)
        except BaseException:
            code, raised = 1, traceback.format_exc()
    said = err.getvalue()
    if "Traceback (most recent call last)" in said:
        raised = said
    results = corpus.at / "runs/folder/compare.json"
    if arguments[0] == "compare" and code == 0 and results.is_file():
        said += results.read_text()
    outcome = "traceback" if raised else outcome_of(kind, code, said, out.getvalue())
    return {
        "outcome": outcome, "kind": kind.name, "number": number, "way": one_line(way, 100), "command": " ".join(arguments),
        "code": code, "said": raised or one_line(said, 300),
    }  # fmt: skip


def outcome_of(kind: Kind, code: int, said: str, printed: str) -> str:
    if code != 0 and not (said + printed).strip():
        return "wordless"
    if kind.name == "a recipe" and "recipe" not in said:
        return "accepted"  # what is said is of the data that this kind leaves out
    # Other exit codes are verdicts: of the gate, of choosing.
    refused = code != 0 and "kdbench: " in said
    told = said + printed.replace("The gallery was left out", "")
    return "clean" if refused or any(word in told for word in kind.noticed) else "accepted"


def main() -> None:
    die_with_parent(os.getppid())
    look_for_cycles_seldom()
    sound, seed, log, traced = Path(sys.argv[1]), int(sys.argv[2]), *map(Path, sys.argv[3:])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # native code's own prints
    warnings.simplefilter("ignore")
    kinds = {kind.name: kind for kind in KINDS}
    # Removed by who started this process, which may be killed.
    folder = Path(tempfile.mkdtemp(dir=log.parent))
    with log.open("w") as stacks, graphs_traced_once(traced):
        corpus = Corpus(sound, folder / "corpus")
        os.chdir(folder)
        for line in sys.stdin:
            name, number, limit = json.loads(line)
            faulthandler.dump_traceback_later(0.9 * limit, file=stacks)
            answer = case(number, kinds[name], seed, corpus)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
