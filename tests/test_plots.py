"""``kdbench plot``: what is drawn is what training wrote down."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from matplotlib import colors
from PIL import Image

from kdbench.methods.base import METHODS, known_terms
from kdbench.report.losses import TOTAL
from kdbench.report.plots import make_figures
from kdbench.runs.history import read_history
from kdbench.runs.tree import RunTree
from tests import forking
from tests.exports import read_unsealed

STANDARD_METHODS = ("baseline", "response", "feature", "combined")
LEGENDS = {"loss": "total", "ce": "cross-entropy", "response": "response", "feature": "feature"}
NAMES = ("losses", "miou", "loss-comparison", "learning-rate")


@pytest.fixture
def runs(trained_runs, tmp_path):
    """A copy to change; its training had two epochs, each validated."""
    return shutil.copytree(trained_runs, tmp_path / "runs")


def rows_of(runs, method, seed=""):
    text = (runs / "folder" / method / seed / "history.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def write_rows(runs, method, rows, seed=""):
    path = runs / "folder" / method / seed / "history.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def figures_of(runs, *methods):
    return make_figures(RunTree(runs, "folder"), methods)


def named_lines(axes):
    """Label → (x, y) of the curves that the legend names."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def test_plot_writes_four_figures_as_png_and_svg(kdbench, trained_runs, tmp_path):
    done = kdbench("plot", "--method", "response", "--runs", trained_runs, "--output", tmp_path)
    assert (done.code, done.err) == (0, "")
    expected = [tmp_path / f"response-{name}{suffix}" for name in NAMES for suffix in (".png", ".svg")]
    assert done.out.splitlines() == [str(path) for path in expected]
    assert sorted(tmp_path.iterdir()) == sorted(expected)
    for path in expected:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width > 900
                assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20
        else:
            assert "<svg" in path.read_text(encoding="utf-8")


def test_all_means_every_trained_method_and_the_default_folder(kdbench, runs):
    shutil.rmtree(runs / "folder" / "combined")
    done = kdbench("plot", "--method", "all", "--runs", runs)
    assert done.code == 0
    assert {path.name for path in (runs / "folder" / "plots").iterdir()} == {
        f"all-{name}{suffix}" for name in NAMES for suffix in (".png", ".svg")
    }


def test_same_history_same_bytes(kdbench, trained_runs, tmp_path):
    for folder in ("a", "b"):
        kdbench("plot", "--method", "feature", "--runs", trained_runs, "--output", tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_loss_terms_are_the_history_unweighted(trained_runs):
    figures, notes = figures_of(trained_runs, *STANDARD_METHODS)
    assert notes == []
    for axes, method in zip(figures["losses"].axes, STANDARD_METHODS, strict=True):
        rows = rows_of(trained_runs, method)
        terms = [key for key in LEGENDS if key in rows[0]]
        assert named_lines(axes) == {LEGENDS[key]: ([1, 2], [row[key] for row in rows]) for key in terms}
    assert figures["losses"].axes[3].get_title() == "combined\ntotal = 1 · CE + 0.7 · response + 0.5 · feature"


def test_miou_has_the_baseline_and_the_teachers_level(trained_runs):
    figures, _ = figures_of(trained_runs, "feature")
    lines = named_lines(figures["miou"].axes[0])
    assert list(lines) == ["baseline", "feature", "teacher, trained"]
    for method in ("baseline", "feature"):
        assert lines[method] == ([1, 2], [row["miou"] for row in rows_of(trained_runs, method)])
    teacher = json.loads((trained_runs / "folder" / "teacher" / "teacher.json").read_text(encoding="utf-8"))
    assert set(lines["teacher, trained"][1]) == {teacher["miou"]}


def test_losses_of_all_methods_are_compared_whichever_is_asked_for(trained_runs):
    figures, _ = figures_of(trained_runs, "response")
    for axes, key in zip(figures["loss-comparison"].axes, ("loss", "ce"), strict=True):
        expected = {m: ([1, 2], [row[key] for row in rows_of(trained_runs, m)]) for m in STANDARD_METHODS}
        assert named_lines(axes) == expected


def test_equal_schedules_share_a_line_and_others_do_not(runs):
    figures, _ = figures_of(runs, "baseline", "response")
    schedule = [row["lr"] for row in rows_of(runs, "baseline")]
    assert named_lines(figures["learning-rate"].axes[0]) == {"baseline, response": ([1, 2], schedule)}
    write_rows(runs, "response", [{**row, "lr": row["lr"] / 2} for row in rows_of(runs, "response")])
    figures, _ = figures_of(runs, "baseline", "response")
    lines = named_lines(figures["learning-rate"].axes[0])
    assert lines == {"baseline": ([1, 2], schedule), "response": ([1, 2], [lr / 2 for lr in schedule])}


def test_seeds_are_thin_lines_and_their_mean_a_bold_one(runs):
    rows = rows_of(runs, "response")
    write_rows(runs, "response", [{**row, "miou": row["miou"] + 0.1} for row in rows], seed="seed-1")
    figures, notes = figures_of(runs, "response")
    axes = figures["miou"].axes[0]
    mean = named_lines(axes)["response, mean of 2 seeds"]
    assert mean == ([1, 2], pytest.approx([row["miou"] + 0.05 for row in rows]))
    thin = [line for line in axes.get_lines() if line.get_label() == "_seed"]
    assert [list(line.get_ydata()) for line in thin] == [
        [row["miou"] for row in rows],
        [row["miou"] + 0.1 for row in rows],
    ]
    bold = next(line for line in axes.get_lines() if line.get_label().startswith("response"))
    assert max(line.get_linewidth() for line in thin) < bold.get_linewidth()
    assert "thin: each seed" in figures["miou"].get_suptitle()
    assert notes == []


def test_a_seed_in_training_is_drawn_but_not_in_the_mean(runs):
    rows = rows_of(runs, "response")
    write_rows(runs, "response", [{**rows[0], "miou": 0.9}], seed="seed-1")
    figures, notes = figures_of(runs, "response")
    lines = named_lines(figures["miou"].axes[0])
    assert lines["response, 1 of 2 seeds"] == ([1, 2], [row["miou"] for row in rows])
    assert len(notes) == 1
    assert notes[0].endswith("ends at epoch 1 of 2: drawn as a thin line, not in the mean")
    assert "seed-1" in notes[0]


def test_epochs_without_validation_are_left_out(runs):
    rows = rows_of(runs, "response")
    write_rows(runs, "response", [{**rows[0], "miou": None}, rows[1]])
    figures, _ = figures_of(runs, "response")
    assert named_lines(figures["miou"].axes[0])["response"] == ([2], [rows[1]["miou"]])


def test_no_validation_yet_is_said(kdbench, runs, tmp_path):
    for method in STANDARD_METHODS:
        write_rows(runs, method, [{**row, "miou": None} for row in rows_of(runs, method)])
    (runs / "folder" / "teacher" / "teacher.json").unlink()
    done = kdbench("plot", "--method", "response", "--runs", runs, "--output", tmp_path)
    assert done.code == 0
    assert "has no validation mIoU yet: plot again when its training has gone on" in done.out


def test_a_missing_baseline_is_said_with_its_command(kdbench, runs, tmp_path):
    shutil.rmtree(runs / "folder" / "baseline")
    done = kdbench("plot", "--method", "response", "--runs", runs, "--output", tmp_path)
    assert done.code == 0
    assert done.out.splitlines()[-1] == (
        f"note: no baseline history under '{runs / 'folder'}', so no baseline curve: "
        "make it with `kdbench train --method baseline --dataset folder`"
    )


@pytest.mark.parametrize("text", [None, ""])
def test_a_missing_history_names_its_command(kdbench, runs, tmp_path, text):
    """Training leaves an empty file until its first epoch is done."""
    path = runs / "folder" / "combined" / "history.jsonl"
    path.unlink()
    if text is not None:
        path.write_text(text, encoding="utf-8")
    done = kdbench("plot", "--method", "combined", "--runs", runs, "--output", tmp_path / "plots")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"kdbench: no finished epoch in '{path}': make it with `kdbench train --method combined --dataset folder`\n"
    )
    assert not (tmp_path / "plots").exists()
    assert kdbench("plot", "--method", "response", "--runs", runs, "--output", tmp_path / "plots").code == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [("{nonsense\n", "line 2 is not JSON"), ('{"epoch": 2, "ce": 1}\n', "line 2 has no lr, loss, miou")],
)
def test_a_broken_line_is_named(kdbench, runs, line, said):
    path = runs / "folder" / "response" / "history.jsonl"
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n" + line, encoding="utf-8")
    done = kdbench("plot", "--method", "response", "--runs", runs)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert f"'{path}' {said}" in done.err
    assert done.err.endswith("train again with `kdbench train --method response --dataset folder`\n")


def test_a_line_being_written_is_left_out(runs):
    path = runs / "folder" / "response" / "history.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"epoch": 3, "lr"', encoding="utf-8")
    assert len(read_history(RunTree(runs, "folder"), "response").seeds[0].rows) == 2


def test_losses_of_very_different_size_get_a_logarithmic_axis(runs):
    path = runs / "folder" / "response" / "student.json"
    path.write_text(json.dumps(read_unsealed(path)).replace('"pixel"', '"batchmean"'), encoding="utf-8")
    write_rows(runs, "response", [{**row, "response": 4e5, "loss": 3e5} for row in rows_of(runs, "response")])
    figures, _ = figures_of(runs, "response")
    axes = figures["losses"].axes[0]
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "training loss (response summed over pixels)"
    assert figures_of(runs, "baseline")[0]["losses"].axes[0].get_yscale() == "linear"


def test_styles_are_told_apart_without_colour():
    terms = [*(style for _, style in TOTAL.values()), *(term.style for term in known_terms().values())]
    for styles in ([method.style for method in METHODS if method.student], terms):
        for values in zip(*styles, strict=True):
            assert len(set(values)) == len(styles), values
        grey = sorted(np.dot(colors.to_rgb(style.color), (0.299, 0.587, 0.114)) for style in styles)
        assert min(np.diff(grey)) > 0.02


def test_legends_lie_below_the_panels_and_inside_the_figure(runs):
    for method in STANDARD_METHODS:
        write_rows(runs, method, rows_of(runs, method), seed="seed-1")
    figures, _ = figures_of(runs, *STANDARD_METHODS)
    for figure in figures.values():
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        assert legend.x0 >= 0
        assert legend.x1 <= figure.bbox.x1
        assert legend.y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes)


def test_drawing_opens_no_window_and_changes_no_setting(trained_runs, tmp_path):
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from pathlib import Path\n"
        "from kdbench.runs.tree import RunTree\n"
        "from kdbench.report.plots import make_figures, write_figures\n"
        f"figures, _ = make_figures(RunTree(Path({str(trained_runs)!r}), 'folder'), ('response',))\n"
        f"write_figures(figures, Path({str(tmp_path)!r}), 'x')\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    forking.run([sys.executable, "-c", code], check=True)


def test_a_term_of_another_kdbench_is_grey_and_by_its_own_name(runs):
    rows = rows_of(runs, "response")
    write_rows(runs, "response", [{**row, "attention": 0.25} for row in rows])
    axes = figures_of(runs, "response")[0]["losses"].axes[0]
    assert named_lines(axes)["attention"] == ([1, 2], [0.25, 0.25])
    assert next(line for line in axes.get_lines() if line.get_label() == "attention").get_color() == "#999999"
    assert axes.get_title() == "response"  # nothing here knows its weight
    assert axes.get_ylabel() == "training loss"  # nor over what it is a mean


@pytest.mark.parametrize(
    ("method", "total", "axis"),
    [
        ("imitation", "total = 0.7 · response", "training loss (mean per labelled pixel)"),
        ("cwd", "total = 1 · CE + 3 · channel-wise", "training loss"),
    ],
)
def test_what_a_panel_says_of_its_losses(runs, method, total, axis):
    """Cross-entropy is drawn for imitation too, which does not learn from it."""
    shutil.move(runs / "folder" / "response", runs / "folder" / method)
    rows = rows_of(runs, method)
    if method == "cwd":
        write_rows(runs, method, [{"cwd" if key == "response" else key: row[key] for key in row} for row in rows])
    axes = figures_of(runs, method)[0]["losses"].axes[0]
    assert (axes.get_title(), axes.get_ylabel()) == (f"{method}\n{total}", axis)
    assert "cross-entropy" in named_lines(axes)
