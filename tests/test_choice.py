"""Which artifact is chosen, on comparisons made up for it, and what the paragraph says."""

from __future__ import annotations

import json

import pytest

from kdbench.cli.choose import state_of_files
from kdbench.comparison.choice import Check, Limits, choose_artifact
from kdbench.comparison.choice_text import front_cells, paragraph, short_name
from kdbench.comparison.results import Artifact, Comparison, Latency, MiouLoss, Row
from kdbench.runs.files import sha256
from tests.conftest import REPOSITORY

TORCH = ("torch fp32", 0.6, (50.0, 49.0, 51.0), 12.0)


def row_of(name, miou, ms, mb, **changes):
    """A row, by "method backend precision" with the method baseline where it is left out, and (median, low, high)."""
    method, backend, precision = ["baseline", *name.split()][-3:]
    median, low, high = ms
    latency = Latency(median_ms=median, mean_ms=median, std_ms=0.1, p95_ms=None, p99_ms=None, ci95_ms=(low, high),
                      rounds=100)  # fmt: skip
    artifact = Artifact(path=f"{method}/{backend}-{precision}/mask", sha256="0", bytes=round(mb * 1e6))
    known = {"reference": "torch", "status": "ok", "miou": miou, "latency": latency, "artifact": artifact}
    return Row(method=method, backend=backend, precision=precision, output="mask", **{**known, **changes})


def comparison_of(*rows):
    made = [row if isinstance(row, Row) else row_of(*row) for row in rows]
    return Comparison.read(REPOSITORY / "tests/golden/tables/camvid-144x192.json").model_copy(update={"rows": made})


def chosen(comparison, **limits):
    choice = choose_artifact(comparison, Limits(**limits))
    return choice.chosen and short_name(choice.chosen.row)


def said(comparison, **limits):
    return paragraph(choose_artifact(comparison, Limits(**limits)), comparison)


def test_the_fastest_that_loses_little_is_chosen_and_pytorch_is_no_candidate():
    comparison = comparison_of(
        ("torch fp32", 0.6, (1.0, 0.9, 1.1), 12.0),
        ("onnx fp32", 0.6, (20.0, 19.0, 21.0), 11.0),
        ("onnx int8", 0.591, (10.0, 9.8, 10.2), 3.0),
        ("openvino int8", 0.58, (5.0, 4.9, 5.1), 4.0),
    )
    assert chosen(comparison) == "baseline onnx int8"
    assert chosen(comparison, max_miou_loss=0.005) == "baseline onnx fp32"
    assert chosen(comparison, max_miou_loss=0.03) == "baseline openvino int8"
    assert chosen(comparison, backends=("torch",)) == "baseline torch fp32"
    assert chosen(comparison, backends=("onnx",), max_miou_loss=0.03) == "baseline onnx int8"


def test_of_those_as_fast_the_most_accurate_then_the_smallest():
    fast = ("onnx int8", 0.595, (10.0, 9.5, 10.5), 3.0)
    accurate = ("openvino fp32", 0.6, (10.8, 10.4, 11.2), 11.0)
    small = ("onnx fp32", 0.60004, (10.6, 10.3, 10.9), 10.0)
    slow = ("openvino int8", 0.7, (10.9, 10.6, 11.2), 1.0)  # its interval begins after the fastest's has ended
    choice = choose_artifact(comparison_of(TORCH, fast, accurate, slow), Limits())
    assert short_name(choice.chosen.row) == "baseline openvino fp32"
    assert [short_name(one.row) for one in choice.equal] == ["baseline onnx int8", "baseline openvino fp32"]
    # 0.6000 and 0.60004 are the same number where it is printed: the smaller file.
    assert chosen(comparison_of(TORCH, fast, accurate, small, slow)) == "baseline onnx fp32"
    text = said(comparison_of(TORCH, fast, accurate, small, slow))
    assert "It is equal in speed to" in text
    assert "of these 3 it is the smallest of the most accurate" in text
    assert said(comparison_of(TORCH, accurate, small)).endswith("of these 2 it is the smallest, with the same mIoU.")


def test_what_the_images_do_not_tell_apart_is_told():
    rows = [
        row_of("onnx fp32", 0.6, (10.0, 9.0, 11.0), 11.0, miou_ci95=(0.55, 0.65)),
        row_of("response onnx fp32", 0.61, (10.5, 9.5, 11.5), 11.0, miou_ci95=(0.56, 0.66)),
    ]
    text = said(comparison_of(*rows), max_miou_loss=None)
    assert "the most accurate (the next has 0.6000; their intervals over images overlap)" in text
    apart = [rows[0].model_copy(update={"miou_ci95": (0.59, 0.605)}), rows[1].model_copy(update={"miou_ci95": None})]
    assert "the most accurate (the next has 0.6000)" in said(comparison_of(*apart), max_miou_loss=None)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_ms": 15}, "baseline onnx int8"),
        ({"max_mb": 5}, "baseline onnx int8"),
        ({"min_miou": 0.6}, "baseline onnx fp32"),
        ({"max_ms": 10}, "baseline onnx int8"),  # a limit is met by what is equal to it
        ({"max_ms": 9.99}, None),
        ({"min_miou": 0.595, "max_mb": 5}, None),
    ],
)
def test_limits(limits, expected):
    comparison = comparison_of(
        TORCH, ("onnx fp32", 0.6, (20.0, 19.0, 21.0), 11.0), ("onnx int8", 0.591, (10.0, 9.8, 10.2), 3.0)
    )
    assert chosen(comparison, **limits) == expected


def test_an_interval_across_a_limit_is_told_and_the_point_decides():
    comparison = comparison_of(TORCH, ("onnx fp32", 0.6, (10.0, 9.0, 11.0), 11.0))
    met, missed = said(comparison, max_ms=10.5), said(comparison, max_ms=9.5)
    assert met.startswith("Deploy baseline/onnx-fp32/mask: ")
    assert "Its interval crosses --max-ms 10.5 (9.00 to 11.00): whether another measurement would meet it too" in met
    assert missed.startswith("Nothing meets --max-miou-loss 0.01 and --max-ms 9.5.")
    assert "would miss it too is not certain" in missed
    assert "crosses" not in said(comparison, max_ms=11)
    loss = MiouLoss(of="torch fp32", loss=0.008, ci95=(0.002, 0.014))
    lossy = comparison_of(TORCH, row_of("onnx int8", 0.592, (10.0, 9.0, 11.0), 3.0, miou_loss=loss))
    assert "crosses --max-miou-loss 0.01 (0.0020 to 0.0140): whether other images would meet it too" in said(lossy)
    assert "It loses 0.0080 of mIoU against torch fp32 of the same method" in said(lossy)


@pytest.mark.parametrize(
    ("interval", "limit", "least", "crossed"),
    [
        ((1.0, 2.0), 1.5, False, True),
        ((1.0, 2.0), 2.0, False, False),  # all of it meets "at most 2"
        ((1.0, 2.0), 1.0, False, True),
        ((1.0, 2.0), 1.0, True, False),  # all of it meets "at least 1"
        ((1.0, 2.0), 2.0, True, True),
        (None, 1.5, False, False),
    ],
)
def test_when_an_interval_crosses(interval, limit, least, crossed):
    assert Check("--x", limit, 1.5, interval, 1.0, least).crossed == crossed


def test_the_loss_is_against_the_same_methods_own_fp32_row():
    comparison = comparison_of(
        ("torch fp32", 0.7, (50.0, 49.0, 51.0), 12.0),
        ("onnx int8", 0.61, (10.0, 9.8, 10.2), 3.0),
        ("response torch fp32", 0.6, (50.0, 49.0, 51.0), 12.0),
        ("response onnx int8", 0.595, (12.0, 11.8, 12.2), 3.0),
    )
    assert chosen(comparison) == "response onnx int8"  # the other has more mIoU, and lost 0.09 of its own
    other = row_of("torch fp32", 0.9, (50.0, 49.0, 51.0), 12.0, variant="student=x")
    assert chosen(comparison_of(*comparison.rows, other)) == "response onnx int8"


def test_an_imported_files_loss_is_against_its_own_fp32_row():
    rows = [
        row_of(f"street onnx {precision}", miou, (ms, ms - 0.1, ms + 0.1), 3.0, reference="onnx fp32")
        for precision, miou, ms in (("fp32", 0.6, 20.0), ("fp16", 0.595, 15.0), ("int8", 0.5, 10.0))
    ]
    choice = choose_artifact(comparison_of(*rows), Limits())
    assert short_name(choice.chosen.row) == "street onnx fp16"
    assert choice.chosen.loss.of == "onnx fp32"
    assert choice.chosen.loss.loss == pytest.approx(0.005)


def test_rows_that_are_not_ok_are_no_candidates_and_are_counted():
    comparison = comparison_of(
        TORCH,
        ("onnx fp32", 0.6, (20.0, 19.0, 21.0), 11.0),
        row_of("trt fp16", None, (1.0, 0.9, 1.1), 5.0, status="built", latency=None),
        row_of("openvino fp32", 0.6, (1.0, 0.9, 1.1), 5.0, status="failed", reason="broken"),
        row_of("openvino fp16", None, (1.0, 0.9, 1.1), 5.0, status="unsupported", reason="by plan"),
    )
    assert chosen(comparison) == "baseline onnx fp32"
    assert said(comparison).endswith("Not considered, because not measured: 1 built, 1 failed.")


def test_only_what_was_asked_for_is_counted_as_not_considered():
    lost = {"status": "failed", "reason": "broken"}
    comparison = comparison_of(
        ("onnx fp32", 0.6, (20.0, 19.0, 21.0), 11.0),
        row_of("torch fp32", None, (1.0, 0.9, 1.1), 5.0, **lost),
        row_of("response onnx fp32", None, (1.0, 0.9, 1.1), 5.0, **lost),
        row_of("trt fp32", None, (1.0, 0.9, 1.1), 5.0, variant="student=x", **lost),
    )
    assert said(comparison).endswith("not measured: 2 failed.")
    assert said(comparison, methods=("baseline",)).endswith("not measured: 1 failed.")
    assert "Not considered" not in said(comparison, methods=("baseline",), variants=(None,))


def test_nothing_fits_the_nearest_and_what_is_in_its_way():
    comparison = comparison_of(
        TORCH,
        ("onnx fp32", 0.6, (20.0, 19.0, 21.0), 11.0),
        ("onnx int8", 0.55, (10.0, 9.8, 10.2), 3.0),
    )
    choice = choose_artifact(comparison, Limits(max_ms=9))
    assert choice.chosen is None
    assert short_name(choice.nearest.row) == "baseline onnx fp32"  # misses one limit, the other two
    text = paragraph(choice, comparison)
    assert text.startswith("Nothing meets --max-miou-loss 0.01 and --max-ms 9. Nearest comes baseline/onnx-fp32/mask: ")
    assert "In its way: --max-ms 9 (it has 20.00)." in text
    assert text.endswith("Of the 2 measured artifacts, --max-ms is missed by 2 and --max-miou-loss is missed by 1.")
    # One limit each: 122% of the milliseconds too many, or 5 points of mIoU.
    assert short_name(choose_artifact(comparison, Limits(max_ms=15, max_mb=11, min_miou=0.6)).nearest.row) == (
        "baseline onnx fp32"
    )


def test_between_misses_of_one_limit_a_point_counts_as_a_percent():
    comparison = comparison_of(
        TORCH, ("onnx fp32", 0.6, (20.0, 19.0, 21.0), 11.0), ("onnx int8", 0.55, (10.0, 9.8, 10.2), 3.0)
    )
    nearest = {ms: choose_artifact(comparison, Limits(max_ms=ms)).nearest for ms in (19.5, 15)}
    assert short_name(nearest[19.5].row) == "baseline onnx fp32"  # 2.6% too slow against 4 points too many
    assert short_name(nearest[15].row) == "baseline onnx int8"  # 33% too slow


def test_a_loss_that_cannot_be_told_is_not_taken_for_none():
    comparison = comparison_of(("onnx fp32", 0.6, (20.0, 19.0, 21.0), 11.0))
    assert chosen(comparison) is None
    assert "cannot be held against it: the fp32 row of its method is not in this comparison" in said(comparison)
    assert chosen(comparison, max_miou_loss=None) == "baseline onnx fp32"
    assert "cannot be told" in said(comparison, max_miou_loss=None)


def test_results_of_before_say_that_they_have_no_interval():
    old = Comparison.read(REPOSITORY / "tests/golden/tables/camvid-precisions.json")
    assert chosen(old) == "combined openvino int8"
    text = said(old)
    assert "It has 0.0070 more mIoU than torch fp32 of the same method (its interval is not in these results" in text
    assert "interval over images" not in text


def test_without_any_artifact_it_says_what_makes_one():
    text = said(comparison_of(TORCH), backends=("onnx",), variants=(None,))
    assert text.startswith("Nothing to choose from: this comparison has no measured artifact for --backend onnx and ")
    assert "--variant usual" in text
    assert choose_artifact(comparison_of(TORCH), Limits()).nearest is None


def test_variants_and_methods_narrow_it():
    comparison = comparison_of(
        row_of("onnx fp32", 0.6, (20.0, 19.0, 21.0), 11.0),
        row_of("onnx fp32", 0.6, (10.0, 9.0, 11.0), 11.0, variant="student=small"),
        row_of("response onnx fp32", 0.6, (15.0, 14.0, 16.0), 11.0),
    )
    assert chosen(comparison, max_miou_loss=None) == "student=small/baseline onnx fp32"
    assert chosen(comparison, max_miou_loss=None, variants=(None,)) == "response onnx fp32"
    assert chosen(comparison, max_miou_loss=None, variants=(None,), methods=("baseline",)) == "baseline onnx fp32"


def test_the_front_and_what_was_chosen_beside_it():
    comparison = comparison_of(
        TORCH,
        ("onnx int8", 0.55, (10.0, 9.9, 10.1), 3.0),
        ("onnx fp32", 0.6, (20.0, 19.0, 21.0), 11.0),
        ("openvino fp32", 0.5999, (20.5, 19.5, 21.5), 10.0),
        ("response onnx fp32", 0.59, (25.0, 24.0, 26.0), 11.0),
    )
    cells = front_cells(choose_artifact(comparison, Limits(max_mb=10.5)), short_name)
    assert cells == [
        ["baseline onnx int8", "0.5500", "0.0500", "10.00 (9.90–10.10)", "3.00", "misses loss"],
        ["baseline onnx fp32", "0.6000", "0.0000", "20.00 (19.00–21.00)", "11.00", "misses MB"],
        ["baseline openvino fp32", "0.5999", "0.0001", "20.50 (19.50–21.50)", "10.00", "chosen"],
    ]


@pytest.fixture
def results(tmp_path):
    comparison = comparison_of(
        TORCH,
        ("onnx fp32", 0.6, (20.0, 19.0, 21.0), 11.0),
        ("onnx int8", 0.595, (10.0, 9.8, 10.2), 3.0),
    )
    comparison.write(tmp_path / "results.json")
    return tmp_path / "results.json"


def test_a_loss_of_1_asks_nothing_of_files_that_cannot_tell_theirs():
    alone = comparison_of(row_of("onnx fp32", 0.6, (20.0, 19.0, 21.0), 11.0))
    assert chosen(alone, max_miou_loss=0.99) is None
    assert chosen(alone, max_miou_loss=1.0) == "baseline onnx fp32"


def test_another_file_of_weights_is_not_the_artifact_that_was_measured(tmp_path):
    """An .xml has the structure alone: with other weights beside it, it is another model with the same bytes."""
    (tmp_path / "mask.xml").write_text("structure", encoding="utf-8")
    (tmp_path / "mask.bin").write_text("weights", encoding="utf-8")
    hashes = [sha256(tmp_path / name) for name in ("mask.xml", "mask.bin")]
    row = row_of(
        "openvino fp32", 0.6, (1.0, 0.9, 1.1), 1.0, artifact=Artifact(path="mask.xml", sha256=hashes[0], bytes=16),
        engine={"weights": {"file": "mask.bin", "sha256": hashes[1]}},
    )  # fmt: skip
    assert state_of_files(row.measured_files(tmp_path)) == "as measured"
    (tmp_path / "mask.bin").write_text("others", encoding="utf-8")
    assert "another file than was measured" in state_of_files(row.measured_files(tmp_path))
    (tmp_path / "mask.bin").unlink()
    assert state_of_files(row.measured_files(tmp_path)) == "not on this machine"


def test_choose_as_a_person_runs_it(results, kdbench, tmp_path):
    done = kdbench("choose", "--results", results, "--runs", tmp_path, "--json", tmp_path / "choice.json")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Deploy baseline/onnx-int8/mask: ")
    assert max(map(len, done.out.splitlines()[:12])) <= 80
    assert "not on this machine" in done.out
    document = json.loads((tmp_path / "choice.json").read_text())
    assert document["schema_version"] == 1
    assert document["chosen"]["artifact"]["path"] == "baseline/onnx-int8/mask"
    assert document["limits"]["max_miou_loss"] == 0.01
    assert (document["considered"], document["meeting"], document["nearest"]) == (2, 2, None)
    assert [one["precision"] for one in document["front"]] == ["int8", "fp32"]
    assert " ".join(done.out.split()).startswith(document["reason"])


def test_results_of_a_dataset_file_have_the_runs_of_its_dataset(results, kdbench, tmp_path):
    file = tmp_path / "yard.toml"
    file.write_text('images = "i/*.png"\nmasks = "m/{name}"\nsplit = { val = 0.5 }\n[classes]\na = 0\nb = 1\n')
    done = kdbench("choose", "--results", results, "--runs", tmp_path, "--dataset", file)
    assert f"File: {tmp_path}/yard/baseline/onnx-int8/mask (not on" in done.out


def test_nothing_fits_is_exit_code_1_with_the_reason_as_json_too(results, kdbench):
    done = kdbench("choose", "--results", results, "--max-ms", "1", "--json", "-")
    assert done.code == 1
    document = json.loads(done.out)
    assert document["chosen"] is None
    assert document["nearest"]["misses"] == ["--max-ms"]
    assert document["reason"].startswith("Nothing meets --max-miou-loss 0.01 and --max-ms 1.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max-ms", "0"], "--max-ms: got 0, expected a finite number above 0"),
        (["--max-ms", "inf", "--json", "-"], "--max-ms: got inf, expected a finite number above 0"),
        (["--min-miou", "nan"], "--min-miou: got nan, expected a fraction from 0 to 1"),
        (["--max-mb", "nan"], "--max-mb: got nan, expected a finite number above 0"),
        (["--min-miou", "60"], "--min-miou: got 60, expected a fraction from 0 to 1"),
        (["--max-miou-loss", "1.5"], "--max-miou-loss: got 1.5, expected a fraction from -1 to 1"),
        (["--backend", "onxx"], "--backend: got 'onxx', expected all or a comma-separated list of torch, "),
        (["--variant", "student=x"], "--variant: got 'student=x', expected all or a comma-separated list of usual"),
    ],
)
def test_a_slip_is_one_line(results, kdbench, arguments, expected):
    done = kdbench("choose", "--results", results, *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert expected in done.err


def test_without_a_comparison_it_says_what_makes_one(kdbench, tmp_path):
    done = kdbench("choose", "--results", tmp_path / "none.json")
    assert (done.code, "make it with `kdbench compare --json FILE`" in done.err) == (2, True)
