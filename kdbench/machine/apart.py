"""An object in a process of its own, whose methods answer within a time or not at all.

For what must not take this process with it: a file from elsewhere may hang in native code, where no signal of ours
arrives, or crash. The process is killed when its time is over, when this one ends however it ends (see ``ending``),
and at Ctrl-C, which reaches this process at once because it only waits.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable
from typing import Any

from kdbench.errors import KdbenchError, RunFailed
from kdbench.machine.ending import die_with_parent

LIMIT_S = 300.0
"""Seconds that an artifact may take in all, unless --timeout says else."""
SIGKILL = getattr(signal, "SIGKILL", 9)
"""The signal by its number where the module lacks it, as on Windows."""
LOOK_S = 0.1
"""Between looks at whether the process is still alive."""


class Apart:
    """``open_it(*arguments)``'s result, in a process of its own.

    Args:
        open_it: a module's function.
        what: names the object in errors, as "'model.onnx'".
        limit_s: seconds for all calls together, opening included.
        per_answer: the seconds are for each call alone: of a film that has thousands.

    Raises:
        KdbenchError: that ``open_it`` raised. RunFailed: the time was over, or the process ended.
    """

    def __init__(
        self,
        open_it: Callable[..., Any],
        *arguments: Any,
        what: str,
        limit_s: float = LIMIT_S,
        per_answer: bool = False,
    ) -> None:
        self._what, self._limit, self._spent, self._per_answer = what, limit_s, 0.0, per_answer
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, open_it, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._receive()

    def call(self, method: str, *arguments: Any) -> Any:
        """What ``object.method(*arguments)`` returns there.

        Raises:
            KdbenchError: that the method raised; RuntimeError: any other that it raised, by its type and text.
            RunFailed: the time was over, or the process ended.
        """
        with contextlib.suppress(OSError):  # it ended: receiving says how
            self._connection.send((method, arguments))
        return self._receive()

    def _receive(self) -> Any:
        started = time.monotonic()
        try:
            while not self._connection.poll(LOOK_S):
                if self._spent + time.monotonic() - started > self._limit:
                    raise RunFailed(
                        f"{self._what} gave no answer within {self._limit:g} s: give it more with --timeout, or leave "
                        "it out"
                    )
                if not self._process.is_alive() and not self._connection.poll(0):
                    raise EOFError
            status, value = self._connection.recv()
        except (EOFError, ConnectionError):  # Windows' pipes break where others end
            self._process.join(5)
            code = self._process.exitcode or 0
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            memory = ", which is how a machine without memory left ends a process" if code == -SIGKILL else ""
            raise RunFailed(f"{self._what} does not run: its process ended {how}{memory}") from None
        except BaseException:
            self.close()
            raise
        if not self._per_answer:
            self._spent += time.monotonic() - started
        if status == "error":
            raise value
        return value

    def close(self) -> None:
        self._process.kill()
        self._process.join(5)
        self._connection.close()


def _serve(connection: Any, open_it: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    parent = multiprocessing.parent_process()
    assert parent is not None
    die_with_parent(parent.pid or 0)
    served: Any = None
    asked: tuple[str, tuple[Any, ...]] | None = None
    while True:
        try:
            served = open_it(*arguments) if asked is None else served
            result = None if asked is None else getattr(served, asked[0])(*asked[1])
            answer = ("ok", result)
        except KdbenchError as error:
            answer = ("error", error)
        except Exception as error:  # engines' own classes cannot all be sent
            answer = ("error", RuntimeError(f"{type(error).__name__}: {error}"))
        try:
            connection.send(answer)
            asked = connection.recv()
        except (EOFError, OSError):
            return
        if served is None:
            return
