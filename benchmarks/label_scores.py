"""What ``label_study``'s log says: means over seeds and paired differences, on val, on test and by drive."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from statistics import fmean
from typing import Any

from kdbench.comparison.numbers import difference, fraction, plus_minus
from kdbench.comparison.seed_statistics import standard_error, verdict_of

Entry = dict[str, Any]
SPLITS = ("val", "test")


def score(entries: list[Entry]) -> dict[str, Any]:
    """Rows of every setting and method, in the order of the log.

    Args:
        entries: the log's lines; mIoU is a fraction.
    """
    rows = []
    for setting in dict.fromkeys(entry["setting"] for entry in entries):
        of_setting = [entry for entry in entries if entry["setting"] == setting]
        baseline = {entry["seed"]: entry for entry in of_setting if entry["method"] == "baseline"}
        for method in dict.fromkeys(entry["method"] for entry in of_setting):
            ours = {entry["seed"]: entry for entry in of_setting if entry["method"] == method}
            rows.append(
                {
                    "setting": setting, "method": method, "seeds": sorted(ours),
                    "labelled": next(iter(ours.values()))["labelled"],
                    **{split: figures(ours, baseline, (split, "miou")) for split in SPLITS},
                    "by_drive": {
                        split: {
                            drive: figures(ours, baseline, (split, "by_drive", drive))
                            for drive in next(iter(ours.values()))[split]["by_drive"]
                        }
                        for split in SPLITS
                    },
                }
            )  # fmt: skip
    return {"schema_version": 1, "benchmark": "label_study", "rows": rows, "entries": entries}


def figures(
    ours: dict[int, Entry], baseline: dict[int, Entry], keys: tuple[str, ...]
) -> dict[str, float | str | list[float] | None]:
    """Mean and standard error over seeds, and of the paired differences over the seeds that the baseline has too.

    Args:
        ours, baseline: by seed.
        keys: where in an entry the mIoU stands.
    """

    def read(entry: Entry) -> float:
        return reduce(getitem, keys, entry)  # type: ignore[return-value]

    values = [read(ours[seed]) for seed in sorted(ours)]
    shared = sorted(ours.keys() & baseline.keys()) if ours != baseline else []
    differences = [read(ours[seed]) - read(baseline[seed]) for seed in shared]
    return {
        "miou": fmean(values), "standard_error": standard_error(values), "values": values,
        "difference": fmean(differences) if differences else None,
        "difference_standard_error": standard_error(differences), "differences": differences,
        "verdict": verdict_of(differences) if differences else None,
    }  # fmt: skip


def as_text(report: dict[str, Any]) -> str:
    """A table of at most 120 columns."""
    lines = [
        f"{'setting':<14}{'method':<12}{'labels':>7}{'seeds':>6}" + "".join(f"{s:>9}{'difference':>31}" for s in SPLITS)
    ]
    for row in report["rows"]:
        line = f"{row['setting']:<14}{row['method']:<12}{row['labelled']:>7}{len(row['seeds']):>6}"
        for split in SPLITS:
            found = row[split]
            over = "–"
            if found["difference"] is not None:
                error = plus_minus(found["difference_standard_error"])
                over = f"{difference(found['difference'])}{error} {found['verdict']}"
            line += f"{fraction(found['miou']):>9}{over:>31}"
        lines.append(line)
    return "\n".join(lines)
