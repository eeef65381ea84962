"""``kdbench report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.cli.app import app
from kdbench.cli.choose import open_comparison
from kdbench.cli.options import DataRoot, Dataset, JsonFile, Runs, json_result, open_trained_dataset
from kdbench.errors import BadInput, KdbenchError
from kdbench.runs.tree import USUAL, RunTree


@app.command(rebuilds=True, computes=True)
def report(
    output: Annotated[Path | None, typer.Option(help="The page. Default: report.html in the dataset's runs.")] = None,
    results: Annotated[Path | None, typer.Option(help="A comparison's JSON. Default: compare.json there.")] = None,
    pictures: Annotated[int, typer.Option(help="Images in the gallery; 0 = none.", min=0, max=100)] = 30,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
    json_file: JsonFile = None,
) -> None:
    """Write one HTML page that needs no network, and a Markdown twin, from results and runs alone.

    A part that is missing becomes a sentence that says which command makes it.

    Examples:
      kdbench report
      kdbench report --dataset camvid --pictures 50 --output report.html
    """
    if results is not None and results.exists():
        _, tree = open_comparison(results, runs, dataset)
    else:
        tree = RunTree.find(runs, dataset, USUAL)
    destination = output or tree.root / "report.html"
    if destination.suffix != ".html":
        raise BadInput(f"--output: got '{destination}', expected a file that ends in .html")
    with json_result(json_file) as document:
        document.update(run_report(tree, destination, results or tree.comparison, pictures, data_root))


def run_report(
    tree: RunTree, destination: Path, results: Path, pictures: int = 30, data_root: Path | None = None
) -> dict[str, Any]:
    """Write the page and its twin; what --json says of it."""
    from kdbench.report.evidence import collect
    from kdbench.report.gallery import make_gallery
    from kdbench.report.page import as_html, as_markdown
    from kdbench.runs.files import write_text

    found = collect(tree, results)
    methods = (*found.students(), *tree.imports())
    gallery, legend = [], []
    if pictures == 0:
        found.gaps["gallery"] = "The gallery was left out: `kdbench report --pictures 30` makes it."
    elif not methods:
        found.gaps["gallery"] = (
            f"No student was trained on every recording: `kdbench train --method all --dataset {tree.dataset}`."
        )
    else:
        try:
            split = open_trained_dataset(tree, data_root, methods[0])
            gallery = make_gallery(tree, methods, split, pictures)
            legend = list(zip(split.classes, split.palette, strict=True))
        except KdbenchError as error:  # the rest of the page does not need the images
            found.gaps["gallery"] = f"No gallery: {' '.join(str(error).split())}"
    write_text(destination, as_html(found, gallery, legend))
    write_text(destination.with_suffix(".md"), as_markdown(found))
    for sentence in found.gaps.values():
        print(sentence)
    print(f"written: {destination} (.md beside it)")
    return {
        "html": destination.as_posix(),
        "markdown": destination.with_suffix(".md").as_posix(),
        "missing": found.gaps,
    }
