"""The comparison's table: what mixed rows compute in, and the layout on a screen that is too narrow."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kdbench.comparison import columns, markdown
from kdbench.comparison.layout import header_and_cells
from kdbench.comparison.numbers import difference, fraction, plus_minus
from kdbench.comparison.results import Comparison, Improvement, Row
from kdbench.comparison.tables import (
    as_csv,
    as_markdown,
    as_text,
    imported_line,
    improvement_lines,
    lines_over_seeds,
    operators_line,
    print_table,
)
from kdbench.report.content import comparison_table
from kdbench.report.evidence import Evidence
from kdbench.runs.tree import RunTree
from tests.conftest import REPOSITORY


def comparison_of(*rows):
    base = Comparison.read(REPOSITORY / "tests/golden/tables/camvid-144x192.json")
    made = [
        Row(method=method, backend=backend, precision=precision, output="mask", status=status,
            engine=None if shares is None else {"operators": shares})
        for method, backend, precision, status, shares in rows
    ]  # fmt: skip
    return base.model_copy(update={"rows": made})


def test_the_table_tells_what_mixed_rows_compute_in():
    mixed = comparison_of(
        ("baseline", "torch", "fp32", "ok", {"fp32": 1.0}),
        ("baseline", "onnx", "int8", "ok", {"int8": 0.9, "fp32": 0.1}),
        ("feature", "onnx", "int8", "ok", {"int8": 0.9, "fp32": 0.1}),
        ("baseline", "openvino", "int8", "ok", {"int8": 0.8, "fp32": 0.2}),
        ("feature", "openvino", "int8", "ok", {"int8": 0.75, "fp32": 0.25}),
        ("baseline", "trt", "fp16", "ok", {}),
        ("feature", "trt", "fp16", "failed", {"fp32": 1.0}),
        ("feature", "torch", "fp32", "ok", {"fp32": 1.0}),
    )
    line = (
        "Convolutions and matrix products compute in: onnx int8 90% int8, 10% fp32; openvino int8 80% int8, 20% fp32 "
        "or 75% int8, 25% fp32; trt fp16 not told by the engine."
    )
    assert operators_line(mixed) == line
    assert line in as_text(mixed).splitlines()
    assert line in as_markdown(mixed).splitlines()


def test_the_table_is_silent_where_rows_are_what_they_say():
    assert operators_line(comparison_of(("baseline", "torch", "fp32", "ok", {"fp32": 1.0}))) is None
    assert operators_line(comparison_of(("baseline", "trt", "fp32", "built", None))) is None
    assert operators_line(Comparison.read(REPOSITORY / "tests/golden/tables/camvid-144x192.json")) is None


def screen(comparison, width):
    console = Console(file=io.StringIO(), width=width)
    print_table(comparison, console)
    return console.file.getvalue().splitlines()


def test_a_screen_that_is_wide_enough_shows_the_table_of_the_files():
    lines = screen(Comparison.read(REPOSITORY / "tests/golden/tables/camvid-144x192.json"), 200)
    for part in ("torch mIoU", "onnx = torch", "trt ms"):
        assert part in lines[1]
    assert sum(line.startswith("│ Without KD (Baseline)") for line in lines) == 1


def test_a_narrow_screen_shows_every_row_whole():
    comparison = Comparison.read(REPOSITORY / "tests/golden/tables/camvid-144x192.json")
    lines = screen(comparison, 110)
    assert "backend" in lines[1]
    assert not any("…" in line for line in lines)
    table = [line.split() for line in lines if line.startswith("│ Response-Based")]
    assert [line[3:] for line in table] == [
        ["torch", "│", "fp32", "│", "2.82M", "│", "0.17", "│", "0.5044", "│", "12.54", "±", "5.83", "│", "–", "│"],
        ["onnx", "│", "fp32", "│", "2.82M", "│", "0.17", "│", "0.5044", "│", "2.62", "±", "0.25", "│", "100.000%", "│"],
        ["trt", "│", "fp32", "│", "2.82M", "│", "0.17", "│", "built", "[1]", "│", "–", "│", "–", "│"],
    ]
    assert len([line for line in lines if line.startswith("[1] trt built: ")]) == 1


def test_a_screen_too_narrow_for_every_column_shows_a_table_per_backend():
    lines = screen(Comparison.read(REPOSITORY / "tests/golden/tables/camvid-144x192.json"), 80)
    assert [line.strip() for line in lines if line and line[0] not in "┏┃┡│├└"][:4] == [
        "Models",
        "torch",
        "onnx",
        "trt",
    ]
    drawn = [line for line in lines if line and line[0] in "┏┃┡│├└"]
    assert max(map(len, drawn)) <= 80
    assert not any("…" in line for line in drawn)
    assert [line.split() for line in drawn if line.startswith("│ Response-Based")] == [
        ["│", "Response-Based", "│", "2.82M", "│", "0.17", "│"],
        ["│", "Response-Based", "│", "fp32", "│", "0.5044", "│", "12.54", "±", "5.83", "│"],
        ["│", "Response-Based", "│", "fp32", "│", "0.5044", "│", "2.62", "±", "0.25", "│", "100.000%", "│"],
    ]
    (trt,) = (line.split() for line in drawn if "students" in line)
    assert trt == ["│", "all", "4", "students", "│", "fp32", "│", "built", "[1]", "│", "–", "│", "–", "│"]


def tables_in(text):
    """Title, header and rows of each table in Markdown."""
    found, title = {}, ""
    for line in text.splitlines():
        if line.startswith("**"):
            title = line.strip("*")
        elif line.startswith("| "):
            found.setdefault(title, []).append(line.strip("| ").split(" | "))
    return {name: (rows[0], rows[2:]) for name, rows in found.items()}


@pytest.mark.parametrize("width", [80, 120, 200])
def test_many_backends_and_precisions_are_a_table_per_backend(width):
    comparison = Comparison.read(REPOSITORY / "tests/golden/compare.json")  # 29 columns side by side
    titles = ["Models", "torch", "onnx", "trt", "openvino"]
    drawn = screen(comparison, width)
    assert [line for line in drawn if line.strip() in titles] == [line for line in drawn if line and line[0].isalpha()][
        :5
    ]
    assert max(len(line) for line in drawn if line and line[0] in "┏┃┡│├└") <= width
    tables = tables_in(as_markdown(comparison))
    assert list(tables) == titles
    assert tables["Models"][0] == ["Knowledge Distillation", "# Parameters", "GFLOP"]
    assert tables["torch"][0] == ["Knowledge Distillation", "precision", "mIoU", "ms"]
    header, rows = tables["onnx"]
    assert header == ["Knowledge Distillation", "precision", "mIoU", "ms", "= torch"]
    assert [row[1] for row in rows] == ["fp32"] * 7 + ["fp16"] * 7 + ["int8"] * 7
    by_key = {(row.method, row.precision): row for row in comparison.rows if row.backend == "onnx"}
    assert rows[14][2] == fraction(by_key["baseline", "int8"].miou)
    text = as_text(comparison).splitlines()
    assert [line for line in text if line in titles] == titles
    table = text[text.index("onnx") + 1 :][: 2 + 21]
    assert max(map(len, table)) < 80
    assert [line.split()[-1] for line in table[2:]] == [row[-1] for row in rows]
    # Reasons keep their numbers in every layout.
    cells = {cell for _, rows in tables.values() for row in rows for cell in row if "[" in cell}
    assert {int(cell.split("[")[1].rstrip("]")) for cell in cells} == set(range(1, 11))


def test_one_method_is_one_table_of_its_backends():
    comparison = Comparison.read(REPOSITORY / "tests/golden/tables/camvid-precisions.json")
    tables = tables_in(as_markdown(comparison))
    assert list(tables) == ["Models", "Combined"]
    header, rows = tables["Combined"]
    assert header == ["backend", "precision", "mIoU", "ms", "= torch"]
    assert [tuple(row[:2]) for row in rows] == [(row.backend, row.precision) for row in comparison.rows]
    assert rows[0][2:] == ["0.4922", "11.56 ± 1.19", "–"]


def test_on_a_terminal_sentences_break_between_words():
    comparison = Comparison.read(REPOSITORY / "tests/golden/tables/camvid-144x192.json")
    console = Console(file=io.StringIO(), width=80, force_terminal=True, no_color=True)
    print_table(comparison, console)
    lines = console.file.getvalue().splitlines()
    said = lines[next(i for i, line in enumerate(lines) if line.startswith("IMPROVEMENTS")) :]
    assert max(map(len, said)) <= 80
    words = " ".join(" ".join(said).split())
    assert all(" ".join(line.split()) in words for line in as_text(comparison).splitlines()[-4:])


def test_accuracy_is_printed_as_fractions_with_four_decimals():
    assert (fraction(0.55494), fraction(None), fraction(1)) == ("0.5549", "–", "1.0000")
    assert (difference(0.01234), difference(-0.5), difference(None)) == ("+0.0123", "-0.5000", "–")
    assert (plus_minus(0.00444), plus_minus(None)) == (" ± 0.0044", "")


def test_a_name_neither_opens_an_element_nor_ends_a_cell():
    lines = markdown.table(["Name", "<b>"], [["a|b <script>", "1 & 2"], ["two\nlines", "3"]], words=1).splitlines()
    assert lines == [
        "| Name | &lt;b&gt; |",
        "| --- | ---: |",
        "| a\\|b &lt;script&gt; | 1 &amp; 2 |",
        "| two lines | 3 |",
    ]


def test_a_column_is_declared_in_one_place(monkeypatch):
    """Megabytes: one line, and every table has them, for the backends that they belong to."""
    size = columns.Column("MB", lambda row: f"{row.artifact.bytes / 1e6:.1f}", of_torch=False)
    before = as_csv(comparison := Comparison.read(REPOSITORY / "tests/golden/tables/camvid-144x192.json"))
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, size))
    onnx = next(row for row in comparison.rows if (row.method, row.backend) == ("baseline", "onnx"))
    megabytes = f"{onnx.artifact.bytes / 1e6:.1f}"
    header, cells, _ = header_and_cells(comparison)
    assert [name for name in header if name.endswith("MB")] == ["onnx MB", "trt MB"]
    assert cells[0][header.index("onnx MB")] == megabytes
    assert all(len(line) == len(header) for line in cells)
    assert as_markdown(comparison).splitlines()[0].endswith("| trt = torch | trt MB |")
    assert "onnx MB" in as_text(comparison).splitlines()[0]
    table = comparison_table(Evidence(RunTree(REPOSITORY, "camvid"), comparison))
    assert (table.header[-1], table.header[3]) == ("MB", "Status")
    assert megabytes in table.rows[comparison.rows.index(onnx)]
    assert as_csv(comparison) == before  # for programs: it follows the JSON's fields, and has bytes


def test_seeds_are_told_by_method_where_they_differ():
    """Three of the baseline, one of another method, two others of a variant: no sentence holds for the whole table."""
    base = Comparison.read(REPOSITORY / "tests/golden/tables/camvid-144x192.json")
    of = base.training["baseline"]
    seeds = {"baseline": [0, 1, 2], "feature": [0, 1, 2], "response": [0], "student=x/baseline": [7, 8]}
    trained = {run: {**of, "seeds": its, "miou_by_seed": [0.5 + 0.01 * s for s in its]} for run, its in seeds.items()}
    first, means = lines_over_seeds(base.model_copy(update={"training": trained}))
    assert first == (
        "The table's rows are the models of each method's first seed, which are exported; improvements are means over "
        "the seeds that a method and its baseline share. Seeds: 0, 1, 2 of Without KD (Baseline), Feature-Based; 0 of "
        "Response-Based; 7, 8 of Without KD (Baseline), student=x."
    )
    assert "Response-Based" not in means  # one training has no spread
    same = {run: trained[run] for run in ("baseline", "feature")}
    first, _ = lines_over_seeds(base.model_copy(update={"training": same}))
    assert first.endswith("the models of seed 0, which are exported; improvements are means over the seeds 0, 1, 2.")


def test_an_error_over_images_says_how_many_trainings_there_were():
    fields = {"delta_miou": 0.02, "standard_error": 0.005, "standard_error_over": "images", "baseline_miou": 0.5,
              "verdict": "no gain shown"}  # fmt: skip
    lines = improvement_lines([Improvement(method="response", seeds=seeds, **fields) for seeds in (1, 2)])
    assert [line.split(" over ")[1] for line in lines] == [
        "images, 1 training each: no gain shown",
        "images, 2 trainings each: no gain shown",
    ]


def test_a_row_is_an_imports_where_it_is_held_against_a_run_of_its_own():
    known = {"backend": "onnx", "precision": "fp32", "output": "mask", "status": "ok"}
    rows = [Row(method=str(name), reference=name, **known) for name in (None, "torch", "onnx fp32")]
    assert [row.imported for row in rows] == [False, False, True]
    assert [row.reference_row for row in rows] == ["torch fp32", "torch fp32", "onnx fp32"]
    comparison = comparison_of().model_copy(update={"rows": rows})
    assert imported_line(comparison).startswith("Imported: onnx fp32. ")
    assert imported_line(comparison.model_copy(update={"rows": rows[:2]})) is None


def test_a_row_that_is_missing_has_a_dash_in_each_column():
    comparison = comparison_of(
        ("baseline", "torch", "fp32", "ok", None),
        ("baseline", "onnx", "fp32", "ok", None),
        ("feature", "onnx", "fp32", "failed", None),
    )
    header, cells, _ = header_and_cells(comparison)
    assert header[3:] == ["torch mIoU", "torch ms", "onnx mIoU", "onnx ms", "onnx = torch"]
    assert cells[1][3:] == ["–", "–", "failed [1]", "–", "–"]


def test_the_csv_has_a_column_for_each_plain_field_of_a_row():
    comparison = Comparison.read(REPOSITORY / "tests/golden/tables/camvid-144x192.json")
    assert as_csv(comparison) == (REPOSITORY / "tests/golden/tables/camvid-144x192.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "text"), [(0, "0 threads"), (1, "1 thread"), (2, "2 threads")])
def test_plurals(number, text):
    from kdbench.comparison.numbers import counted

    assert counted(number, "thread") == text
