"""How large a report is, and how long a browser takes to open it.

    kdbench report --pictures 30
    python -m benchmarks.report_page runs/camvid/report.html --json results/report-page.json

Each opening is a fresh, offline browser window; it ends when the scatter chart is drawn and every picture that is in
sight is there. Needs Playwright and Chromium. Prints one table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import time
from pathlib import Path

from kdbench.machine.environment import environment
from kdbench.runs.files import write_json

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
OPENINGS = 9


def open_times(page_file: Path) -> dict[str, list[float]]:
    """Seconds of each opening, by width of the window."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium here: apt install chromium")
    seconds: dict[str, list[float]] = {name: [] for name in WIDTHS}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(OPENINGS):
            for name, (width, height) in WIDTHS.items():
                context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
                page = context.new_page()
                started = time.monotonic()
                page.goto(page_file.resolve().as_uri())
                page.wait_for_selector("#chart-scatter .main-svg")
                page.wait_for_function("[...document.images].every((i) => i.loading == 'lazy' || i.complete)")
                seconds[name].append(time.monotonic() - started)
                context.close()
        browser.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="an .html file of `kdbench report`")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.report.is_file():
        raise SystemExit(f"'{arguments.report}' is not there: kdbench report --pictures 30")
    html = arguments.report.read_text(encoding="utf-8")
    rows = [
        {"width": name, "seconds": [round(s, 3) for s in times], "median": statistics.median(times), "max": max(times)}
        for name, times in open_times(arguments.report).items()
    ]
    report = {
        "schema_version": 1, "benchmark": "report_page", "bytes": arguments.report.stat().st_size,
        "embedded_pictures": len(re.findall(r"data:image/", html)), "rows": rows,
        "environment": environment(),
    }  # fmt: skip
    if arguments.json:
        write_json(arguments.json, report)
    print(f"{report['bytes'] / 1e6:.2f} MB, {report['embedded_pictures']} pictures in it")
    for row in rows:
        print(f"{row['width']:<9} opens in {row['median']:.2f} s (median of {OPENINGS}; longest {row['max']:.2f} s)")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
