"""``kdbench report``: what is on the page, and what it never claims."""

from __future__ import annotations

import json
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from kdbench.comparison.results import Comparison, Improvement, Row
from kdbench.report.analysis import gain_sentence, speed_sentences
from kdbench.report.charts import PLOT, charts, dash_of, log_range, pareto_front, placed_names
from kdbench.report.evidence import collect
from kdbench.report.gallery import error_map
from kdbench.report.page import as_html
from kdbench.runs.tree import RunTree
from tests import forking


@pytest.fixture(scope="module")
def compared(made_once, trained_runs):
    """Trained runs with a comparison of what PyTorch alone runs; not to be changed."""

    def make(folder):
        shutil.copytree(trained_runs, folder / "runs")
        command = [sys.executable, "-m", "kdbench", "compare", "--backend", "torch,onnx", "--rounds", "20",
                   "--runs", str(folder / "runs")]  # fmt: skip
        forking.run(command, check=True)

    return made_once("compared", make) / "runs"


@pytest.fixture(scope="module")
def page(compared, tmp_path_factory):
    """The page and its text in Markdown."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    command = [sys.executable, "-m", "kdbench", "report", "--runs", compared, "--output", file, "--pictures", "3"]
    forking.run(command, check=True)
    return file.read_text(), file.with_suffix(".md").read_text()


def test_every_section_is_there_and_nothing_is_fetched(page):
    html, markdown = page
    for name in ("analysis", "hardware", "training", "comparison", "deploy", "trade-off", "classes", "latency", "parity",
                 "gallery", "not-run", "checklist", "reproduce"):  # fmt: skip
        assert f'<section id="{name}"' in html
    own = html[: html.index('<script id="data"')] + html.rsplit("<script>", 1)[1]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", own)
    assert "http" not in own
    assert len(html) < 15e6
    assert "## Comparison" in markdown
    assert "## What to deploy" in markdown


def test_numbers_are_the_comparisons(page, compared):
    html, markdown = page
    for row in json.loads((compared / "folder" / "compare.json").read_text())["rows"]:
        if row["status"] == "ok":
            for text in (html, markdown):
                assert f"{row['miou']:.4f}" in text
                assert f"{row['latency']['median_ms']:.2f}" in text


def test_rows_that_did_not_run_say_why_and_methods_share_a_line(page):
    methods = "Without KD (Baseline), Response-Based, Feature-Based, Combined"
    for text in page:
        assert text.count("onnx fp32: unavailable: no onnx export") == 1
        assert f"{methods}, onnx fp32: unavailable: no onnx export" in text


def test_the_gallery_has_images_labels_predictions_and_errors(page):
    html = page[0]
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)[1])
    assert len(data["gallery"]) == 3
    shares = [picture["disagreement"] for picture in data["gallery"]]
    assert shares == sorted(shares, reverse=True)
    for picture in data["gallery"]:
        assert picture["image"].startswith("data:image/jpeg;base64,")
        assert picture["overlays"].keys() == picture["predictions"].keys()
        assert set(picture["predictions"]) == set(picture["errors"]) == {"baseline", "response", "feature", "combined"}


def test_a_picture_without_a_labelled_pixel_has_no_score(compared, kdbench, folder_dataset, tmp_path):
    data = shutil.copytree(folder_dataset, tmp_path / "data")
    Image.fromarray(np.full((64, 96), 255, np.uint8)).save(data / "masks" / "val" / "val0.png")
    done = kdbench("report", "--runs", compared, "--data-root", data, "--output", tmp_path / "r.html")
    assert done.code == 0, done.err
    shown = re.search(r'<script id="data" type="application/json">(.*?)</script>', (tmp_path / "r.html").read_text())
    scores = {picture["name"]: picture["miou"] for picture in json.loads(shown[1])["gallery"]}
    assert scores["val0"] == {}
    assert set(scores["val1"]) == {"baseline", "response", "feature", "combined"}


def test_with_nothing_compared_the_page_says_what_to_do(trained_runs, kdbench, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(trained_runs, runs)
    done = kdbench("report", "--runs", runs, "--pictures", "0")
    assert done.code == 0, done.err
    html = (runs / "folder" / "report.html").read_text()
    assert "<code>kdbench compare --dataset folder</code>" in html
    assert "Nothing was compared yet" in done.out
    assert "--pictures 30" in html


@pytest.mark.parametrize(
    ("status", "drawn"), [("ok", {"scatter", "classes-by-precision"}), ("unavailable", set())], ids=["ok", "none"]
)
def test_a_comparison_without_pytorchs_rows_has_its_page(compared, status, drawn):
    """Of exports alone, and of rows none of which ran."""
    found = collect(RunTree(compared, "folder"), compared / "folder" / "compare.json")
    found.comparison.rows = [
        row.model_copy(update={"backend": "onnx", "status": status}) for row in found.comparison.rows if row.miou
    ][:1]
    assert charts(found).keys() & {"scatter", "classes-by-method", "classes-by-precision"} == drawn
    found.gaps["gallery"] = "No pictures were asked for."
    html = as_html(found, [], [])
    assert ("No row of this comparison was measured." in html) == (status != "ok")


def test_images_that_are_gone_cost_the_gallery_alone(compared, kdbench, tmp_path):
    done = kdbench("report", "--runs", compared, "--data-root", tmp_path / "gone", "--output", tmp_path / "r.html")
    assert done.code == 0, done.err
    assert "No gallery: " in done.out
    assert "chart-scatter" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "report.pdf"], "expected a file that ends in .html"),
        (["--dataset", "voc2012", "--pictures", "0", "--results", "broken.json"], "is not readable as JSON"),
    ],
)
def test_bad_input_is_one_line(compared, kdbench, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    done = kdbench("report", "--runs", compared, *arguments)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_results_are_reported_on_with_the_runs_of_their_dataset(compared, kdbench, tmp_path):
    runs = shutil.copytree(compared, tmp_path / "runs")
    results = shutil.copy(runs / "folder" / "compare.json", tmp_path / "results.json")
    # The last training is of another dataset.
    assert kdbench("train", "--method", "baseline", "--runs", runs, "--epochs", 1, "--images", 4, "--size", "64x64").code == 0  # fmt: skip
    done = kdbench("report", "--runs", runs, "--results", results, "--pictures", 0)
    assert done.code == 0, done.err
    assert f"written: {runs / 'folder' / 'report.html'}" in done.out
    mixed = kdbench("report", "--runs", runs, "--results", results, "--pictures", 0, "--dataset", "shapes")
    assert (mixed.code, mixed.err.count("\n")) == (2, 1)
    assert "got a comparison of dataset 'folder', expected one of 'shapes'" in mixed.err
    document = json.loads((tmp_path / "results.json").read_text())
    document["dataset"]["name"] = "../elsewhere"
    results.write_text(json.dumps(document))
    outside = kdbench("report", "--runs", runs, "--results", results, "--pictures", 0)
    assert (outside.code, outside.err.count("\n")) == (2, 1)
    assert not (tmp_path / "elsewhere").exists()


def test_nothing_trained_at_all(kdbench, tmp_path):
    done = kdbench("report", "--runs", tmp_path)
    assert done.code == 2
    assert "no trained model" in done.err


class TestClaims:
    def gain(self, **changes):
        fields = {
            "method": "response", "delta_miou": 0.02, "standard_error": 0.005, "standard_error_over": "seeds",
            "seeds": 3, "baseline_miou": 0.5, "verdict": "gain",
        }  # fmt: skip
        return gain_sentence(Improvement(**{**fields, **changes}))

    def test_a_gain_with_its_error(self):
        assert self.gain() == (
            "Response-Based: +2.00 points of mIoU against the baseline's 0.5000, ± 0.50 standard error over 3 paired "
            "seeds: a gain of more than two standard errors."
        )

    def test_no_gain_and_a_loss(self):
        assert "no gain is shown" in self.gain(standard_error=0.02, verdict="no gain shown")
        assert "a loss of more than two" in self.gain(delta_miou=-0.02, verdict="loss")

    def test_one_training_or_two_claim_nothing(self):
        one = self.gain(seeds=1, standard_error_over="images", verdict="no gain shown")
        assert ", 1 training each (± 0.50 over images alone)." in one
        assert "no gain is claimed" in one
        two = self.gain(seeds=2, standard_error_over="images", verdict="no gain shown")
        assert ", 2 trainings each (± 0.50 over images alone)." in two
        assert "no gain is claimed" in self.gain(seeds=2, verdict="no gain shown")


SLOWER = ("onnx", "fp32", 12.0, (11.9, 12.1))
UNSURE = ("openvino", "int8", 4.0, (3.0, 11.0))
FASTER = ("trt", "fp16", 5.0, (4.9, 5.1))


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([SLOWER], "No backend is shown to be faster than PyTorch eager."),
        (
            [SLOWER, UNSURE],
            "No backend is shown to be faster than PyTorch eager: the interval of openvino int8 (Feature-Based), whose "
            "median is lower, overlaps its.",
        ),
        # A better ratio that is not shown does not hide the one that is.
        ([SLOWER, UNSURE, FASTER], "The largest gain over PyTorch is that of trt fp16 (Feature-Based): 2.0 times as "),
    ],
)
def test_only_a_backend_whose_interval_is_apart_is_shown_to_be_faster(compared, others, said):
    comparison = Comparison.read(compared / "folder" / "compare.json")
    comparison.rows = [
        rows_at((ms, 0.5))[0].model_copy(update={"backend": backend, "precision": precision})
        for backend, precision, ms, _ in (("torch", "fp32", 10.0, (9.9, 10.1)), *others)
    ]
    for row, interval in zip(comparison.rows, ((9.9, 10.1), *(one[3] for one in others)), strict=True):
        row.latency = row.latency.model_copy(update={"ci95_ms": interval})
    (sentence,) = speed_sentences(comparison)
    assert sentence.startswith(said)


@pytest.mark.parametrize("backends", [("torch", "torch-channels-last"), ("torch-channels-last", "torch")])
def test_rounds_are_of_the_backend_that_a_file_is_named_by(compared, tmp_path, backends):
    """In whatever order: a name that begins as another's is not taken for it, nor rounds of several images for one's."""
    runs = shutil.copytree(compared, tmp_path / "runs")
    latency, results = runs / "folder" / "latency", runs / "folder" / "compare.json"
    comparison = Comparison.read(results)
    torch = [row for row in comparison.rows if row.backend == "torch"]
    comparison.rows = [row.model_copy(update={"backend": backend}) for backend in backends for row in torch]
    comparison.write(results)

    def shown():
        return {backend for _, backend, _ in collect(RunTree(runs, "folder"), results).rounds}

    shutil.copy(latency / "torch.json", latency / "torch-channels-last-64x96.json")
    assert shown() == {"torch", "torch-channels-last"}
    (latency / "torch.json").rename(latency / "torch-batch-4.json")
    assert shown() == {"torch-channels-last"}


def test_pareto_front():
    points = [(1.0, 0.3), (2.0, 0.5), (1.5, 0.2), (3.0, 0.5), (2.0, 0.4), (4.0, 0.6)]
    assert pareto_front(points) == [(1.0, 0.3), (2.0, 0.5), (4.0, 0.6)]


def test_curves_show_terms_and_not_the_total_alone(compared):
    found = collect(RunTree(compared, "folder"), compared / "folder" / "compare.json")
    drawn = charts(found)
    assert {name for name in drawn if name.startswith("terms-")} == {
        "terms-response", "terms-feature", "terms-combined",
    }  # the baseline's total is its cross-entropy  # fmt: skip
    by_name = {trace["name"]: trace for trace in drawn["terms-combined"]["data"]}
    assert len(by_name) == 4
    (history,) = (history for history in found.histories if history.method == "combined")
    for name, key in (("total", "loss"), ("cross-entropy", "ce"), ("response", "response")):
        assert by_name[name]["y"] == pytest.approx(history.mean(key)[1])
    assert len({(trace["line"]["dash"], trace["marker"]["symbol"]) for trace in by_name.values()}) == 4


def test_line_styles_of_matplotlib_as_plotly_has_them():
    assert [dash_of(style) for style in ("-", "--", "-.", ":")] == ["solid", "dash", "dashdot", "dot"]
    assert dash_of((0, (3, 1, 1, 1))) == "6px,2px,2px,2px"


def rows_at(*places):
    """Rows of the comparison of one method, at (milliseconds, mIoU)."""
    latency = {"mean_ms": 1, "std_ms": 0, "p95_ms": None, "p99_ms": None, "ci95_ms": (1, 1), "rounds": 10}
    return [
        Row(method="feature", backend="onnx", precision="fp32", output="mask", status="ok", miou=miou,
            latency={**latency, "median_ms": ms})
        for ms, miou in places
    ]  # fmt: skip


def test_names_of_points_say_all_and_cover_nothing():
    rows = rows_at((1, 0.5), (1, 0.501), (8, 0.7), (8.1, 0.7))
    placed = placed_names(rows, log_range([1, 8.1]))
    assert [placed[id(row)][1] for row in rows] == ["bottom center", "top center", "top center", "bottom center"]
    assert {placed[id(row)][0] for row in rows} == {"Feature-Based, onnx fp32"}
    # Where there is no place left, hovering tells.
    crowd = rows_at(*[(1 + i / 1000, 0.5) for i in range(9)], (9, 0.9))
    placed = placed_names(crowd, log_range([1, 9]))
    assert 3 <= sum(not placed[id(row)][0] for row in crowd) < 9


def test_a_name_stays_inside_the_axes():
    low, high = log_range([2.0, 2.0])  # one point, or several of the same latency
    assert low < np.log10(2) < high
    (row,) = rows_at((2.0, 0.5))
    assert placed_names([row], (np.log10(2), np.log10(2) + 1))[id(row)] == ("Feature-Based, onnx fp32", "middle right")
    assert PLOT[0] > 0


def test_columns_that_no_row_needs_are_left_out(page):
    header = re.search(r'id="comparison".*?<thead>(.*?)</thead>', page[0], re.S)[1]
    assert "Status" in header
    assert "New scenes" not in header
    assert "Test" not in header


def test_error_map_by_value():
    label = np.array([[0, 1, 255]], np.uint8)
    assert np.asarray(error_map(label, np.array([[0, 0, 1]], np.uint8))).tolist() == [[1, 2, 0]]


def test_text_from_files_cannot_become_markup(compared, kdbench, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(compared, runs)
    file = runs / "folder" / "compare.json"
    document = json.loads(file.read_text())
    document["notes"].append("</script><script>alert(1)</script>")
    document["dataset"]["classes"][0] = "</script><b>"
    file.write_text(json.dumps(document))
    assert kdbench("report", "--runs", runs, "--pictures", "0").code == 0
    html = (runs / "folder" / "report.html").read_text()
    assert "<script>alert" not in html
    assert "</script><b>" not in html
