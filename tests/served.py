"""What tests open in a process of its own, in a module that imports nothing heavy: that process imports it too."""

from __future__ import annotations

import os
import signal
import time

from kdbench.errors import BadInput


class Served:
    def __init__(self, refuse=False):
        if refuse:
            raise BadInput("no such file")

    def double(self, values):
        return 2 * values

    def sleep(self, seconds):
        time.sleep(seconds)

    def crash(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def fail(self):
        raise ZeroDivisionError("by nothing")
