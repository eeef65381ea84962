"""Write the measured parts of README.md and docs/measured.md from the committed results files.

python -m benchmarks.readme_table            # rewrite both
python -m benchmarks.readme_table --check    # exit 1 when one differs from the results

No measured number is typed by hand: each stands between two comments that name the results files it comes from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    gpu_tables,
    imagenet_and_cutmix_tables,
    label_tables,
    measured_tables,
    readme_figures,
    student_tables,
)
from kdbench.runs.files import write_text

REPOSITORY = Path(__file__).resolve().parent.parent
README = Path("README.md")
MEASURED = Path("docs/measured.md")
ENGINES = Path("results/camvid-quarter.json")
PAYS = Path("docs/does-distillation-pay.md")
RESULTS = Path("results/camvid-180x240.json")
SPEED = Path("results/backend-speedup.json")
TRAINING = Path("results/training-speed.json")
STUDENT = Path("results/student-latency.json")
FRONT = Path("results/student-front.json")
ACCURACY = Path("results/student-accuracy.json")
GATE = Path("results/gate-study.json")
NETWORKS = Path("results/foreign-networks.json")
IMPORTS = Path("results/import-overhead.json")
DEMO = Path("results/demo.json")
LABELS = Path("results/label-study.json")
LABELS_CPU, FOLDS = Path("results/label-study-cpu.jsonl"), Path("results/label-study-cpu.json")
FILES, STREAMING = Path("results/imported-files.json"), Path("results/streaming-speed.json")
PROCESSORS = Path("results/int8-processors.json")
THREADS = Path("results/thread-settings.json")
GPU = Path("results/gpu")


@dataclass(frozen=True)
class Part:
    """A part of a page that is generated.

    Attributes:
        page: below the repository's root.
        name: what it is: "table", or another word where a page has two parts from the same files.
        results: the files that it comes from.
        render: the repository's root and those files → Markdown, whose last line ends.
    """

    page: Path
    name: str
    results: tuple[Path, ...]
    render: Callable[..., str]

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: begin, from {', '.join(path.as_posix() for path in self.results)} -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.name}: end -->"

    def split(self, text: str) -> tuple[str, str]:
        """What of a page's text stands before the first marker and after the second."""
        if text.count(self.begin) != 1 or self.end not in text.split(self.begin)[1]:
            raise SystemExit(f"{self.page}: expected the markers '{self.begin}' and '{self.end}' once each")
        head, rest = text.split(self.begin)
        return head, rest.split(self.end, 1)[1]

    def written_into(self, text: str, root: Path) -> str:
        """A page's text with what lies between the two markers made anew."""
        head, rest = self.split(text)
        return f"{head}{self.begin}\n{self.render(root, *self.results)}{self.end}{rest}"


def _measured(results: Path, render: Callable[[Path, Path], str]) -> Part:
    return Part(MEASURED, "table", (results,), render)


PARTS = (
    Part(README, "demo", (DEMO,), readme_figures.demo),
    Part(README, "output", (RESULTS, NETWORKS), readme_figures.printed),
    Part(README, "table", (LABELS, ENGINES, FOLDS), label_tables.few_labels_table),
    Part(README, "weights", (FOLDS, LABELS, FRONT), imagenet_and_cutmix_tables.weights_sentence),
    Part(README, "figures", (GATE, NETWORKS, PROCESSORS, SPEED, LABELS, TRAINING), readme_figures.claims),
    Part(README, "gpu", (GPU / "latency-compiled.json",), readme_figures.gpu_claim),
    _measured(RESULTS, measured_tables.comparison_table),
    _measured(LABELS, label_tables.labels_table),
    Part(MEASURED, "fewer", (FOLDS, LABELS), label_tables.labels_on_views_table),
    Part(MEASURED, "folds", (FOLDS,), label_tables.folds_table),
    Part(MEASURED, "views", (FOLDS,), label_tables.teacher_size_table),
    Part(MEASURED, "weights", (FOLDS, LABELS, FRONT), imagenet_and_cutmix_tables.weights_table),
    Part(MEASURED, "cutmix", (FOLDS, LABELS), imagenet_and_cutmix_tables.cutmix_table),
    Part(PAYS, "hours", (LABELS, LABELS_CPU), label_tables.label_hours),
    _measured(STUDENT, student_tables.student_table),
    _measured(ACCURACY, student_tables.accuracy_table),
    _measured(FRONT, student_tables.front_table),
    _measured(TRAINING, measured_tables.training_table),
    _measured(STREAMING, measured_tables.streaming_table),
    _measured(SPEED, measured_tables.speed_table),
    _measured(PROCESSORS, measured_tables.processors_table),
    _measured(THREADS, measured_tables.threads_table),
    _measured(NETWORKS, measured_tables.networks_table),
    _measured(FILES, measured_tables.files_table),
    _measured(IMPORTS, measured_tables.import_table),
    _measured(GATE, measured_tables.gate_table),
    _measured(GPU / "latency.json", gpu_tables.latency_table),
    _measured(GPU / "latency-compiled.json", gpu_tables.latency_table),
    _measured(GPU / "training.json", gpu_tables.training_table),
    _measured(GPU / "training-overlapped.json", gpu_tables.training_table),
)
PAGES = (README, MEASURED, PAYS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when a page is not up to date")
    check = parser.parse_args().check
    for page in PAGES:
        wanted = (REPOSITORY / page).read_text(encoding="utf-8")
        for part in PARTS:
            if part.page != page:
                continue
            before, wanted = wanted, part.written_into(wanted, REPOSITORY)
            if check and before != wanted:
                files = ", ".join(path.as_posix() for path in part.results)
                sys.exit(f"{page}: its {part.name} differs from {files}: run `make readme`")
        if not check:
            write_text(REPOSITORY / page, wanted)
    shown = " and ".join(map(str, PAGES))
    print(f"what is measured in {shown} {'agrees with' if check else 'was written from'} results/")


if __name__ == "__main__":
    main()
