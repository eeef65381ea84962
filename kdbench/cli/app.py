"""The typer application, and how errors reach a person."""

from __future__ import annotations

import errno
import functools
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kdbench import __version__
from kdbench.errors import KdbenchError
from kdbench.kinds import PLUGINS, Kind, load_plugins
from kdbench.machine.environment import process_rank
from kdbench.methods.base import METHODS, all_methods, student_methods
from kdbench.progress import silenced
from kdbench.runs.tree import BACKENDS, EXPORT_SUFFIX, PRECISIONS

IN_HELP: dict[str, Callable[[], tuple[str, ...]]] = {
    "{methods}": METHODS.names,
    "{students}": student_methods,
    "{all}": all_methods,
}
"""What the help of an option may hold, and the names that take its place."""
NAMES: dict[str, tuple[str, ...] | Kind[Any]] = {
    "--method": METHODS,
    "--backend": (*BACKENDS, "all"),
    "--precision": (*PRECISIONS, "all"),
    "--format": (*EXPORT_SUFFIX, "all"),
    "--dataset": ("shapes", "camvid", "voc2012", "folder"),
    "--device": ("auto", "cpu", "cuda"),
}
"""What a shell offers after an option; of a kind, all that is declared by then, and "all"."""


class Commands(TyperGroup):
    """The commands; what their help says of methods is known when it is asked for, plugins included."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command: Any = super().get_command(ctx, cmd_name)
        for parameter in command.params if command is not None else ():
            for text, names in IN_HELP.items():
                if text in (getattr(parameter, "help", None) or ""):
                    parameter.help = parameter.help.replace(text, ", ".join(names()))
        return command


class App(typer.Typer):
    """A Typer whose every command takes --quiet, and whose options of ``NAMES`` are completed by the shell."""

    def command(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        register = super().command(*arguments, **options)

        def add(function: Any) -> Any:
            register(extended(function))
            return function

        return add


def completion(names: tuple[str, ...] | Kind[Any]) -> Callable[[str], list[tuple[str, str]]]:
    """Offers ``names`` for the last one of a comma-separated list, each with what its item says of itself."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        before, comma, last = incomplete.rpartition(",")
        known = (
            [*((item.name, getattr(item, "help", "")) for item in names), ("all", "")]
            if isinstance(names, Kind)
            else [(name, "") for name in names]
        )
        return [(before + comma + name, said) for name, said in known if name.startswith(last)]

    return complete


def extended(function: Any) -> Any:
    """``function`` as Typer reads it, with --quiet and completion."""

    @functools.wraps(function)
    def command(*arguments: Any, quiet: bool, **options: Any) -> Any:
        with silenced(quiet):
            return function(*arguments, **options)

    silence = Annotated[bool, typer.Option("--quiet", help="No progress: results, warnings and errors alone.")]
    quiet = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=silence)
    parameters = [*inspect.signature(function, eval_str=True).parameters.values(), quiet]
    for parameter in parameters:
        for option in getattr(parameter.annotation, "__metadata__", ()):
            # In an Annotated, Typer takes a first "--name" for the default until it builds the command.
            flag = option.default if isinstance(option.default, str) else "--" + parameter.name.replace("_", "-")
            if flag in NAMES:
                option.autocompletion = completion(NAMES[flag])
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def join(plugins: list[Path] | None) -> list[Path] | None:
    """Let the files of --plugin declare what they do, before anything else is read, to complete names too."""
    if plugins:
        # For this process and those that it starts.
        given = [str(path.absolute()) for path in plugins]
        os.environ[PLUGINS] = os.pathsep.join([*filter(None, [os.environ.get(PLUGINS)]), *given])
        load_plugins()
    return plugins


app = App(
    name="kdbench",
    cls=Commands,
    help="Knowledge distillation for semantic segmentation: train fairly, export with proof, compare every backend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            help="A Python file that declares a method, backend, dataset or architecture; it is run.",
            callback=join,
            is_eager=True,
        ),
    ] = None,
) -> None:
    if show:
        print(f"kdbench {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line: a user's error is one line on stderr, a bug keeps its traceback.

    Ctrl-C ends with 130 and SIGTERM with 143, after everything that must be put away is: half-written files, the
    process that measures latency, the terminal's cursor.
    """
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(128 + number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM) if in_main_thread}
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        if not stopped:
            raise
        sys.exit(stopped[0])  # libraries answer an interrupted import with errors of their own
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run() -> None:
    # Windows' and some CI's consoles are not UTF-8; a table must not die of its own ± sign.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except KdbenchError as error:
        rank = process_rank()
        process = f"process {rank}: " if rank else ""
        print(f"kdbench: {process}{' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is not None or error.errno != errno.ENOSPC:
            raise
        print("kdbench: the output cannot be written (no space left on its disk): make room", file=sys.stderr)
        sys.exit(1)
