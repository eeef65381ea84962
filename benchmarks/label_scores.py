"""What ``label_study``'s log says: means and paired differences, on val, on test, on drives held out, and by drive."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from statistics import fmean
from typing import Any

from kdbench.comparison.numbers import difference, fraction, plus_minus
from kdbench.comparison.seed_statistics import independent, standard_error, verdict_of

Entry = dict[str, Any]
Run = tuple[str, int]
"""A fold, or a setting that has none, and a seed."""
SPLITS = ("val", "test", "new_scenes")
FOLD = "-without-"
"""Between a setting's name and the drive that one of its folds holds out."""
BY_LABELS = ("sixteenth", "quarter", "all")
"""Settings that differ in the number of labels alone."""
BY_LABELS_ON_VIEWS = ("sixteenth-views", "eighth-views", "quarter-views", "half-views")
"""The same where views are made once for all methods and seeds."""


def score(entries: list[Entry]) -> dict[str, Any]:
    """Rows of every setting and method, in the order of the log.

    A setting's folds are one row: their values are those of every fold and seed, and differences are paired by both.

    Args:
        entries: the log's lines; mIoU is a fraction.
    """
    rows = []
    for name, in_folds in dict.fromkeys((base_of(entry), is_fold(entry)) for entry in entries):
        of_setting = [entry for entry in entries if (base_of(entry), is_fold(entry)) == (name, in_folds)]
        baseline = by_run(of_setting, "baseline")
        for method in dict.fromkeys(entry["method"] for entry in of_setting):
            ours = by_run(of_setting, method)
            first = next(iter(ours.values()))
            splits = [split for split in SPLITS if split in first]
            rows.append(
                {
                    "setting": name + (" (folds)" if in_folds else ""), "method": method,
                    "seeds": sorted({entry["seed"] for entry in ours.values()}), "labelled": first["labelled"],
                    **{split: figures(ours, baseline, (split, "miou")) for split in splits},
                    "by_drive": {
                        split: {
                            drive: figures(
                                with_drive(ours, split, drive), with_drive(baseline, split, drive),
                                (split, "by_drive", drive),
                            )
                            for drive in sorted({d for entry in ours.values() for d in entry[split]["by_drive"]})
                        }
                        for split in splits
                    },
                }
            )  # fmt: skip
    return {"schema_version": 1, "benchmark": "label_study", "rows": rows, "entries": entries}


def base_of(entry: Entry) -> str:
    """The setting without the name of the drive that a fold holds out."""
    name: str = entry["setting"].partition(FOLD)[0]
    return name


def is_fold(entry: Entry) -> bool:
    return FOLD in entry["setting"]


def by_run(entries: list[Entry], method: str) -> dict[Run, Entry]:
    return {(entry["setting"], entry["seed"]): entry for entry in entries if entry["method"] == method}


def with_drive(runs: dict[Run, Entry], split: str, drive: str) -> dict[Run, Entry]:
    return {run: entry for run, entry in runs.items() if drive in entry[split]["by_drive"]}


def figures(
    ours: dict[Run, Entry], baseline: dict[Run, Entry], keys: tuple[str, ...]
) -> dict[str, float | str | list[float] | None]:
    """Mean and standard error over runs, and of the paired differences over those that the baseline has too.

    Both are over seeds, or, of several folds, over each fold's mean over its seeds.

    Args:
        ours, baseline: by fold and seed.
        keys: where in an entry the mIoU stands.
    """

    def read(entry: Entry) -> float:
        return reduce(getitem, keys, entry)  # type: ignore[return-value]

    values = {run: read(ours[run]) for run in sorted(ours)}
    shared = sorted(ours.keys() & baseline.keys()) if ours != baseline else []
    differences = {run: read(ours[run]) - read(baseline[run]) for run in shared}
    means, gains = independent(values), independent(differences)
    return {
        "miou": fmean(means), "standard_error": standard_error(means), "values": list(values.values()),
        "difference": fmean(gains) if gains else None,
        "difference_standard_error": standard_error(gains), "differences": list(differences.values()),
        "verdict": verdict_of(gains) if gains else None,
    }  # fmt: skip


def as_text(report: dict[str, Any]) -> str:
    """A table of at most 120 columns."""
    lines = [f"{'setting':<26}{'method':<12}{'labels':>7}{'seeds':>6}{'split':>11}{'mIoU':>9}{'difference':>31}"]
    for row in report["rows"]:
        head = f"{row['setting']:<26}{row['method']:<12}{row['labelled']:>7}{len(row['seeds']):>6}"
        for split in (split for split in SPLITS if split in row):
            found = row[split]
            over = "–"
            if found["difference"] is not None:
                error = plus_minus(found["difference_standard_error"])
                over = f"{difference(found['difference'])}{error} {found['verdict']}"
            lines.append(f"{head}{split:>11}{fraction(found['miou']):>9}{over:>31}")
    return "\n".join(lines)
