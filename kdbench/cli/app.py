"""The typer application, and how errors reach a person."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kdbench import __version__
from kdbench.errors import KdbenchError

app = typer.Typer(
    name="kdbench",
    help="Knowledge distillation for semantic segmentation: train fairly, export with proof, compare every backend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if show:
        print(f"kdbench {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line: a user's error is one line on stderr, a bug keeps its traceback."""
    # Windows' and some CI's consoles are not UTF-8; a table must not die of its own ± sign.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except KdbenchError as error:
        print(f"kdbench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
