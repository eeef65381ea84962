"""What can go wrong for a user, as exceptions.

KdbenchError            one line for the person; the command line prints it without a traceback
├── BadInput            a flag, file or folder is wrong                      exit code 2
├── Missing             something that another command makes is not there    exit code 2
├── BackendUnavailable  this machine cannot run that engine                  a row's reason
│   ├── EngineRefused   its runtime is here, and refuses the file            a row's reason
│   └── NoSuchPrecision it does not compute in that precision, by plan       a row's reason
└── RunFailed           the work itself failed (NaN loss, out of memory)     exit code 1

Every message names the item, what was received, what was expected, and the fix. Anything that
is not a KdbenchError is a bug and keeps its traceback.
"""

from __future__ import annotations

import traceback


class KdbenchError(Exception):
    """A problem that the user can mend; ``str(error)`` is one line."""

    exit_code = 1
    in_json = False
    """Whether a command's --json document says it."""


class BadInput(KdbenchError):
    """A flag, a file or a folder is not what the command expects."""

    exit_code = 2


class Missing(KdbenchError):
    """An input that another kdbench command makes does not exist; the message names that command."""

    exit_code = 2


class BackendUnavailable(KdbenchError):
    """The artifact may be fine, but this machine cannot run it (no GPU, package not installed)."""


class EngineRefused(BackendUnavailable):
    """The engine's runtime is installed beside a GPU, and refuses the file; the message has the runtime's own words."""


class NoSuchPrecision(BackendUnavailable):
    """The engine has no such precision here: a plan and not a failure, since nothing that a person did is wrong."""


class RunFailed(KdbenchError):
    """The work started and could not go on; what was written before is kept."""


def as_bug(error: Exception) -> str:
    """What stands in place of a result where kdbench itself is wrong; the traceback goes to stderr."""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {one_line(error, 200)} (a bug of kdbench: its traceback is above)"


def one_line(text: object, limit: int = 400) -> str:
    """Somebody else's message as part of ours: one line, cut where it is longer than ``limit`` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
