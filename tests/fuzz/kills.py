"""SIGKILL at every atomic replace and at random moments of real work: ``python -m tests.fuzz.kills --kills 200``.

After each kill the tree is read file by file, and the same command has to end well and leave what an undisturbed one
does. A kill that came before real work began, or after the end, does not count and is drawn again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# One thread, before any library is imported: processes are forked.
os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "RAY_USAGE_STATS_ENABLED": "0"}

from kdbench.machine.environment import environment
from kdbench.runs.files import SCHEMA_VERSION, write_json
from tests.fuzz import tree_state
from tests.fuzz.at_replace import read_notes
from tests.fuzz.kill_commands import COMMANDS, make_inputs
from tests.fuzz.kill_summary import BAD, summary
from tests.fuzz.victim import Victim, become_reaper, children_left, import_as

AT_REPLACES = 0.6
"""Share of a command's kills that are at replaces, at most; each is hit twice at most."""
DRAWS = 25
"""Of a moment, until the kill counts."""
OLDER_S = 60.0
"""A next command comes so much later: TMPDIR's folders of the last half minute may be in the making."""


@dataclass(frozen=True)
class Known:
    """Of a command that nobody disturbed.

    Attributes:
        before, after: the names of the states that it goes from and to.
        work_s: from its first sign of real work to its end.
        replaces: the files that it replaced, in order.
        files: of the state after it → hash.
    """

    before: str
    after: str
    work_s: float
    replaces: list[str]
    files: dict[str, str]


class Place:
    """Where commands run: always the same path, since files name others by theirs."""

    def __init__(self, folder: Path) -> None:
        self.at, self.tmp, self._kept = folder / "at", folder / "tmp", folder / "kept"

    def make(self) -> None:
        self.at.mkdir()
        make_inputs(self.at)
        self.keep("inputs")

    def keep(self, name: str) -> None:
        shutil.copytree(self.at, self._kept / name)

    def restore(self, name: str) -> None:
        for folder in (self.at, self.tmp):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._kept / name, self.at)
        self.tmp.mkdir()

    def learn(self, names: tuple[str, ...]) -> dict[str, Known]:
        """Run each command undisturbed, in order."""
        known, before = {}, "inputs"
        for name in names:
            self.restore(before)
            victim = Victim(COMMANDS[name], self.at, over=False)
            assert victim.wait_for_work(), f"{name} did no work: {victim.said.read_text()[-1000:]}"
            began = time.monotonic()
            victim.wait()
            seconds = time.monotonic() - began
            assert victim.code in COMMANDS[name].codes, f"{name}: {victim.said.read_text()[-2000:]}"
            assert not children_left()[0], name
            import_as(victim)
            self.keep(name)
            replaces = [line.split(" ", 1)[1] for line in read_notes(victim.notes) if line.startswith("replace ")]
            known[name] = Known(before, name, seconds, replaces, tree_state.hashes(self.at))
            print(f"{name}: {seconds:.1f} s of work, {len(replaces)} replaces", file=sys.stderr, flush=True)
            before = name
        return known


@dataclass(frozen=True)
class Kill:
    """One to be made; ``replace`` None = at a random time."""

    command: str
    number: int
    replace: tuple[int, str] | None = None


def plan(known: dict[str, Known], kills: int, seed: int) -> list[Kill]:
    """All commands in turn, each with its share; replaces in an order of the seed, before and after each."""
    shares = {name: COMMANDS[name].share for name in known}
    counts = {name: max(1, int(kills * share / sum(shares.values()))) for name, share in shares.items()}
    first = next(iter(counts))
    counts[first] += max(0, kills - sum(counts.values()))
    queues = []
    for name, count in counts.items():
        points = list(itertools.product(range(1, len(known[name].replaces) + 1), ("before", "after")))
        order = random.Random(f"{seed} {name}")
        twice = order.sample(points, len(points)) + order.sample(points, len(points))
        chosen = twice[: round(AT_REPLACES * count)]
        queues.append([Kill(name, number, point) for number, point in enumerate(chosen)])
        queues[-1] += [Kill(name, number) for number in range(len(chosen), count)]
    return [kill for row in itertools.zip_longest(*queues) for kill in row if kill is not None]


def make(kill: Kill, place: Place, known: Known, seed: int) -> dict[str, Any]:
    """Kill a command, look at what it left, and run it again."""
    draws = random.Random(f"{seed} {kill.command} {kill.number}")
    command, tries = COMMANDS[kill.command], 0
    while True:
        over = draws.random() < 0.5  # a sweep over a finished one has little to do
        place.restore(known.after if over else known.before)
        before = tree_state.hashes(place.at)
        number, when = kill.replace or (0, "")
        victim = Victim(command, place.at, over, number, when)
        moment = draws.random()
        if kill.replace is None and victim.wait_for_work():
            time.sleep(moment * known.work_s)
            victim.kill()
        victim.wait()
        children, seconds = children_left()
        tries += 1
        if victim.was_killed:
            break
        assert tries < DRAWS, f"{kill}: no kill hit real work in {DRAWS} tries: {victim.said.read_text()[-500:]}"
    said = [line.split(" ", 1)[1] for line in read_notes(victim.notes) if line.startswith("replace ")]
    where = f"{when} replace {number}: {said[-1]}" if kill.replace else f"{moment:.3f} of its work"
    now = tree_state.hashes(place.at)
    models, trusted = tree_state.apart(place.at)
    found: dict[str, Any] = {
        "command": kill.command, "number": kill.number, "over": over, "at_replace": kill.replace, "where": where,
        "drawn_again": tries - 1, "lost": tree_state.lost(before, now),
        "unreadable": tree_state.unreadable(place.at, before, now), "children": children,
        "children_s": round(seconds, 2), "apart": models, "trusted": trusted,
        "temporaries": len(tree_state.temporaries(place.at)) + len(tree_state.left_in_tmp(place.tmp)),
    }  # fmt: skip
    for path in place.tmp.iterdir():
        os.utime(path, (time.time() - OLDER_S,) * 2)
    return found | again(kill.command, place, known, over)


def again(name: str, place: Place, known: Known, over: bool) -> dict[str, Any]:
    """The same command once more, and how its end differs from an undisturbed one's."""
    victim = Victim(COMMANDS[name], place.at, over)
    victim.wait()
    children_left()
    failed = victim.code not in COMMANDS[name].codes
    after = tree_state.hashes(place.at)
    weights = [file for file in known.files if file.endswith(".safetensors")]
    return {
        "code": victim.code, "failed": victim.said.read_text()[-1000:] if failed else "",
        "inconclusive": victim.code != 0 and not failed,
        "missing": sorted(known.files.keys() - after.keys()), "unexpected": sorted(after.keys() - known.files.keys()),
        "other_weights": [file for file in weights if after.get(file) not in (None, known.files[file])],
        "left": tree_state.temporaries(place.at) + tree_state.left_in_tmp(place.tmp),
    }  # fmt: skip


def run_kills(
    place: Place, known: dict[str, Known], kills: int, seed: int, log: Path | None
) -> Iterator[dict[str, Any]]:
    """All kills; those that the log has are taken from there, so that a run that was stopped goes on."""
    lines = map(json.loads, log.read_text().splitlines()) if log is not None and log.exists() else []
    made = {(line["command"], line["number"]): line for line in lines}
    for kill in plan(known, kills, seed):
        if (kill.command, kill.number) not in made:
            made[kill.command, kill.number] = make(kill, place, known[kill.command], seed)
            if log is not None:
                with log.open("a") as file:
                    file.write(json.dumps(made[kill.command, kill.number]) + "\n")
        yield made[kill.command, kill.number]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", default=",".join(COMMANDS), help="of these alone; those before are run for them")
    parser.add_argument("--log", type=Path, help="a line of JSON for each kill; a run that was stopped goes on from it")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    wanted = asked.command.split(",")
    names = tuple(name for name in COMMANDS if name in {need for one in wanted for need in (*COMMANDS[one].needs, one)})
    become_reaper()
    about = {**environment(), "command": f"python -m tests.fuzz.kills --kills {asked.kills} --seed {asked.seed}"}
    if wanted != list(COMMANDS):
        about["command"] += f" --command {asked.command}"
    started, results = time.monotonic(), []
    # A short name: Ray's sockets lie below.
    with tempfile.TemporaryDirectory(prefix="kd-", dir="/tmp") as folder:
        place = Place(Path(folder))
        place.make()
        learnt = place.learn(names)
        known = {name: learnt[name] for name in names if name in wanted}
        for result in run_kills(place, known, asked.kills, asked.seed, asked.log):
            results.append(result)
            faults = {key: result[key] for key in BAD if result[key]}
            print(f"{len(results)}: {result['command']} {result['where']} {faults or ''}", file=sys.stderr, flush=True)
    found = summary(results, {name: (len(one.replaces), one.work_s) for name, one in known.items()})
    if asked.json:
        run = {"seed": asked.seed, "asked": asked.kills, "seconds": round(time.monotonic() - started)}
        write_json(asked.json, {"schema_version": SCHEMA_VERSION, **run, "environment": about, **found})
    print(json.dumps({key: value for key, value in found.items() if key != "commands"}))
    return int(any(result[key] for result in results for key in BAD))


if __name__ == "__main__":
    sys.exit(main())
