"""The typer application, and how errors reach a person."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from kdbench import __version__
from kdbench.backends import BACKENDS, usual_backends
from kdbench.data.open import DATASETS, roots, takers
from kdbench.errors import BadInput, KdbenchError
from kdbench.formats import FORMATS, PRECISIONS
from kdbench.kinds import PLUGINS, load_plugins
from kdbench.machine.cores import answers_alone, asked_threads
from kdbench.machine.environment import process_rank
from kdbench.methods.base import METHODS, all_methods, student_methods
from kdbench.models.architectures import ARCHITECTURES, students, teachers
from kdbench.models.sources import SOURCES
from kdbench.progress import silenced
from kdbench.runs.files import SCHEMA_VERSION


def networks() -> tuple[str, ...]:
    """Names of networks, and how names of a package's begin."""
    return (*ARCHITECTURES.names(), *(f"{source.name}:" for source in SOURCES))


NAMES: dict[str, Callable[[], tuple[str, ...]]] = {
    "--method": lambda: (*METHODS.names(), "all"),
    "--backend": lambda: (*BACKENDS.names(), "all"),
    "--precision": lambda: (*PRECISIONS, "all"),
    "--format": lambda: (*FORMATS.names(), "all"),
    "--dataset": DATASETS.names,
    "--student": networks,
    "--teacher": networks,
    "--arch": networks,
    "--device": lambda: ("auto", "cpu", "cuda"),
}
"""What a shell offers after an option, asked for then: files from outside may have joined."""
FILLED: dict[str, Callable[[], str]] = {
    "{methods}": lambda: ", ".join(METHODS.names()),
    "{students}": lambda: ", ".join(student_methods()),
    "{all}": lambda: ", ".join(all_methods()),
    "{backend}": lambda: ", ".join(BACKENDS.names()),
    "{usual}": lambda: ", ".join(usual_backends()),
    "{format}": lambda: ", ".join(FORMATS.names()),
    "{dataset}": lambda: f"{', '.join(DATASETS.names())}, or a dataset file (.toml)",
    "{roots}": roots,
    "{sbd}": lambda: ", ".join(takers("sbd")),
    "{download}": lambda: ", ".join(takers("download")),
    "{student}": lambda: ", ".join(students()),
    "{teacher}": lambda: ", ".join(teachers()),
    "{arch}": lambda: ", ".join(ARCHITECTURES.names()),
    "{sources}": lambda: ", ".join(f"{source.name}:{source.example}" for source in SOURCES),
}
"""What stands in the help of options in place of names, filled in when help is shown."""


class Command(TyperCommand):
    """A command whose help has the names that are known when it is shown."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params:
            text = getattr(parameter, "help", None)
            for mark, names in FILLED.items():
                if text and mark in text:
                    text = text.replace(mark, names())
                    parameter.help = text  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


class App(typer.Typer):
    """A Typer whose every command takes --quiet, and whose options of ``NAMES`` are completed by the shell."""

    def command(
        self, *arguments: Any, rebuilds: bool = False, computes: bool = False, untimed: bool = False, **options: Any
    ) -> Callable[[Any], Any]:
        """As Typer's.

        Args:
            rebuilds: the command builds networks that a run names, so that it takes --trust-code.
            computes: it takes --threads, which ``kdbench.machine.cores`` knows while it runs; and as ``untimed``.
            untimed: no latency is measured in its own process, so that threads sleep there while they wait.
        """
        register = super().command(*arguments, **{"cls": Command, **options})

        def add(function: Any) -> Any:
            register(extended(function, rebuilds, computes, untimed or computes))
            return function

        return add


def completion(flag: str) -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    """Offers a flag's ``NAMES`` for the last one of a comma-separated list, each method with its help."""

    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        with contextlib.suppress(KdbenchError):  # running the command says what is wrong with a plugin
            join(ctx.find_root().params.get("plugin"))
        before, comma, last = incomplete.rpartition(",")
        known = [name for name in NAMES[flag]() if name.startswith(last)]
        said = {method.name: method.help for method in METHODS} if flag == "--method" else {}
        return [(before + comma + name, said.get(name, "")) for name in known]

    return complete


def extended(function: Any, rebuilds: bool, computes: bool, untimed: bool) -> Any:
    """``function`` as Typer reads it, with the options that many commands share, and completion."""

    @functools.wraps(function)
    def command(*arguments: Any, quiet: bool, trust_code: bool = False, own_threads: int = 0, **options: Any) -> Any:
        if trust_code:
            from kdbench.models.code import trust_all

            trust_all()
        with silenced(quiet), asked_threads(own_threads), answers_alone() if untimed else contextlib.nullcontext():
            try:
                return function(*arguments, **options)
            except KdbenchError as error:
                # What --json - is for reads a document, also of an error before there was anything else to say.
                if options.get("json_file") == "-" and not error.in_json and process_rank() == 0:
                    print(json.dumps({"schema_version": SCHEMA_VERSION, "error": " ".join(str(error).split())}))
                raise

    agreed = Annotated[
        bool, typer.Option("--trust-code", help="Run the Python file that built a run's network; read it first.")
    ]
    trust = inspect.Parameter("trust_code", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=agreed)
    wanted = Annotated[int, typer.Option("--threads", help="CPU threads; 0 = one per core that may be used.", min=0)]
    threads = inspect.Parameter("own_threads", inspect.Parameter.KEYWORD_ONLY, default=0, annotation=wanted)
    silence = Annotated[bool, typer.Option("--quiet", help="No progress: results, warnings and errors alone.")]
    quiet = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=silence)
    own = inspect.signature(function, eval_str=True).parameters.values()
    parameters = [*own, *[threads] * computes, *[trust] * rebuilds, quiet]
    for parameter in parameters:
        for option in getattr(parameter.annotation, "__metadata__", ()):
            # In an Annotated, Typer takes a first "--name" for the default until it builds the command.
            flag = option.default if isinstance(option.default, str) else "--" + parameter.name.replace("_", "-")
            if flag in NAMES:
                option.autocompletion = completion(flag)
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
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):  # wherever it was given: no file system has such a place
            print(f"kdbench: '{error.filename!s:.80}' is no path ({error.strerror}): mend it", file=sys.stderr)
            sys.exit(BadInput.exit_code)
        if error.filename is not None or error.errno != errno.ENOSPC:
            raise
        print("kdbench: the output cannot be written (no space left on its disk): make room", file=sys.stderr)
        sys.exit(1)
