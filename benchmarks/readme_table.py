"""Write the README's measured table from the committed results file: no number is typed by hand.

python -m benchmarks.readme_table            # rewrite README.md
python -m benchmarks.readme_table --check    # exit 1 when README.md differs from the results
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kdbench.artifacts import write_text
from kdbench.results import Comparison
from kdbench.tables import as_markdown

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = Path("results/camvid-cpu.json")
BEGIN, END = "<!-- table: begin, from {} -->", "<!-- table: end -->"


def rendered(results: Path) -> str:
    """The table with its hardware, versions, command and revision."""
    comparison = Comparison.read(REPOSITORY / results)
    environment = comparison.environment
    hardware, versions = environment["hardware"], environment["versions"]
    training = next(iter(comparison.training.values()))
    engines = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "tensorrt-rtx") if name in versions
    )
    gpu = f", {hardware['gpu'][0]}" if hardware["gpu"] else ", no GPU"
    return (
        f"{as_markdown(comparison)}\n"
        f"Measured on {hardware['cores']} cores ({hardware['cpu']}), {hardware['memory_gib']} GiB{gpu}; {engines}. "
        f"{training['train_images']} training images, {training['epochs']} epochs, seeds "
        f"{', '.join(map(str, training['seeds']))}. Trained at revision `{training['revision'][:12]}`, compared at "
        f"`{environment['git']['revision'][:12]}` by `{environment['command']}`; "
        f"every figure is in `{results.as_posix()}`.\n"
    )


def with_table(readme: str, results: Path) -> str:
    """``readme`` with the text between its two markers replaced."""
    begin = BEGIN.format(results.as_posix())
    if readme.count(begin) != 1 or readme.count(END) != 1:
        raise SystemExit(f"README.md: expected the markers '{begin}' and '{END}' once each")
    head, rest = readme.split(begin)
    return f"{head}{begin}\n{rendered(results)}{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when README.md is not up to date")
    check = parser.parse_args().check
    path = REPOSITORY / "README.md"
    now = path.read_text(encoding="utf-8")
    wanted = with_table(now, RESULTS)
    if check and now != wanted:
        sys.exit(f"README.md's table differs from {RESULTS.as_posix()}: run `make readme`")
    if not check:
        write_text(path, wanted)
    print(f"README.md's table {'agrees with' if check else 'was written from'} {RESULTS.as_posix()}")


if __name__ == "__main__":
    main()
