"""Children that end with their parent, however it ends: by its own end, by SIGKILL, by a crash.

On Linux the kernel sees to it, also while the child is suspended or within native code; elsewhere a thread looks
whether the parent is still there. It uses the standard library alone, and no other module of kdbench: ``worker.py``
loads this file by its path, whatever kdbench it times.

As a program, ``python -P ending.py PARENT MODULE ARGUMENTS``, it is ``python -m MODULE ARGUMENTS`` that ends with
PARENT.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time

LOOK_S = 1.0
"""Between looks at the parent, where the kernel does not tell."""
PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """From now on this process ends when ``parent`` does, or now where it is gone already."""
    if sys.platform == "win32":
        return  # a parent's number stays there after its end
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        return
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)


def module_command(module: str, *arguments: str) -> list[str]:
    """``python -m MODULE ARGUMENTS`` as a child that ends with this process."""
    return [sys.executable, "-P", os.path.abspath(__file__), str(os.getpid()), module, *arguments]


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    module = sys.argv[2]
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
