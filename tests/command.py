"""The command line in this process, as a person would call it."""

from __future__ import annotations

import sys
from unittest import mock


def run_main(arguments) -> int:
    """``kdbench ARGUMENTS``: the exit code. What is no error of a person's is raised."""
    from kdbench.cli import main

    with mock.patch.object(sys, "argv", ["kdbench", *map(str, arguments)]):
        try:
            main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
