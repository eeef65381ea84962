"""A process that ends what another leaves running when it is killed: programs that do not end with it by themselves.

Ray does on Linux but for its agents, which wait a minute for an answer of the server that is gone.

As a program, ``python -P guard.py PARENT MARK``, it watches PARENT until its own stdin is closed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

LOOK_S = 1.0
"""Between looks at what runs."""


@contextmanager
def guarded(mark: str) -> Iterator[None]:
    """While the block runs: if this process is killed, so are its marked children and all below them.

    Args:
        mark: a part of their command lines.
    """
    guard = subprocess.Popen(
        [sys.executable, "-P", os.path.abspath(__file__), str(os.getpid()), mark],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()


def watch(parent: int, mark: str) -> None:
    """Remember what is marked until stdin is closed, which it is by the parent's end, and end it then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to answer
    gone, marked = threading.Event(), set[psutil.Process]()

    def read() -> None:
        sys.stdin.read()
        gone.set()

    threading.Thread(target=read, daemon=True).start()
    while not gone.wait(LOOK_S):
        with contextlib.suppress(psutil.Error):  # one that ends meanwhile is looked for no more
            for child in psutil.Process(parent).children():
                if child.pid != os.getpid() and mark in " ".join(child.cmdline()):
                    marked |= {child, *child.children(recursive=True)}
    for process in marked:
        with contextlib.suppress(psutil.Error):
            process.kill()  # not another one that got its number


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
