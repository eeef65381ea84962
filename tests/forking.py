"""Commands in a process of their own, without the seconds that importing PyTorch takes each time.

``run`` is ``subprocess.run`` for ``python -m MODULE`` and ``python -c CODE`` in the repository. A server that has
imported what every command needs forks a child for each; the child is a process like any other from there on: its own
arguments, environment, standard streams and end. What is tested of a process itself (what it imports, signals, being
killed) starts one by ``subprocess``; where there is no fork, ``run`` does so too.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

REPOSITORY = Path(__file__).resolve().parent.parent
# None of them starts a thread, and a child imports kdbench itself, as it is declared by then.
PRELOADED = (
    "pytest", "torch", "kdbench.torchvision_compat", "torchvision", "torch.onnx", "torch.utils.tensorboard", "onnx",
    "matplotlib.figure", "safetensors.torch", "pydantic.type_adapter", "rich.progress", "scipy.stats", "typer.main",
    "markdown_it.main", "filelock", "psutil", "PIL.JpegImagePlugin",
)  # fmt: skip
FORKS = hasattr(os, "fork") and sys.platform == "linux"
START_S = 120.0
FOLDER = tempfile.gettempdir()
"""For the socket, whose path must be short: asked before a test names another folder."""
_start = subprocess.run
"""As it is without ``latency_in_a_fork``."""


class _Server:
    """The process that forks; one for each process of pytest."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forking-", dir=FOLDER)
        self.address = str(Path(self._folder.name) / "socket")
        code = f"from tests import forking; forking.serve({self.address!r})"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=REPOSITORY, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_S)
        if not ready or self._process.stdout.readline() != b"ready\n":
            self.close()
            raise RuntimeError("the server of tests/forking.py did not start: python -c 'from tests import forking'")

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()  # the end of its stdin is its end
        self._process.wait()
        self._folder.cleanup()


_server: _Server | None = None
_address: str | None = None
"""Of the server, within it and its children, which may start processes in turn."""


def address() -> str:
    global _server
    if _address is not None:
        return _address
    if _server is None:
        _server = _Server()
        atexit.register(close)
    return _server.address


def look_for_cycles_seldom() -> None:
    """Tracing a network makes millions of objects that live on: to look through them after every 700 is a tenth of it."""
    gc.set_threshold(50_000, 20, 50)


def close() -> None:
    global _server
    if _server is not None:
        _server.close()
        _server = None


def run(
    command: list[Any], *, env: dict[str, str] | None = None, timeout: float | None = None, check: bool = False,
    errors: str = "strict", cwd: str | Path = REPOSITORY,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a command of Python: its exit code, stdout and stderr, as text.

    Args:
        command: ``[sys.executable, "-m", MODULE, …]``, ``[sys.executable, "-c", CODE, …]``, or what
            ``kdbench.machine.ending.module_command`` makes.
        env, timeout, check, errors, cwd: as ``subprocess.run`` has them.
    """
    command = [str(part) for part in command]
    environment = {**os.environ} if env is None else env
    if not FORKS or _starts_otherwise(environment):
        return _start(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=check,
            errors=errors,
        )  # fmt: skip
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        asked = json.dumps({"command": command[1:], "environment": environment, "cwd": str(cwd)}).encode()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address())
            socket.send_fds(connection, [len(asked).to_bytes(8, "big")], [out.fileno(), err.fileno()])
            connection.sendall(asked)
            with connection.makefile("rb") as answers:
                pid = int(answers.readline())
                ready, _, _ = select.select([connection], [], [], timeout)
                if not ready:
                    os.kill(pid, signal.SIGKILL)
                code = int(answers.readline())
        texts = [_read(stream, errors) for stream in (out, err)]
    if not ready:
        raise subprocess.TimeoutExpired(command, timeout or 0.0, *texts)
    done = subprocess.CompletedProcess(command, code, *texts)
    if check:
        done.check_returncode()
    return done


def _starts_otherwise(environment: dict[str, str]) -> bool:
    """Whether Python would import a ``sitecustomize`` of this environment when it starts."""
    folders = environment.get("PYTHONPATH", "").split(os.pathsep)
    return any(Path(folder, "sitecustomize.py").exists() for folder in folders if folder)


def _read(stream: Any, errors: str) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", errors).replace("\r\n", "\n")


def latency_in_a_fork() -> Any:
    """A patch under which ``compare`` in this process has its benchmark processes forked."""

    def start(command: Any, **how: Any) -> Any:
        if isinstance(command, list) and command[:2] == [sys.executable, "-P"] and "pytest" in command[4:5]:
            return run(command, cwd=os.getcwd(), **{name: how[name] for name in ("env", "timeout", "errors")})
        return _start(command, **how)

    return mock.patch.object(subprocess, "run", start)


# The server


def serve(at: str) -> None:
    """Fork a child for whoever connects, until stdin ends."""
    global _address
    look_for_cycles_seldom()
    for name in PRELOADED:
        importlib.import_module(name)
    _address = at
    latency_in_a_fork().start()
    gc.collect()
    gc.freeze()  # so that no child's collector writes to, and thereby copies, what all share
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(at)
        listening.listen()
        os.write(1, b"ready\n")
        while True:
            ready, _, _ = select.select([listening, 0], [], [], 1.0)
            reap()
            if 0 in ready:
                return
            if listening in ready:
                connection, _ = listening.accept()
                if os.fork() == 0:
                    listening.close()
                    _handle(connection)
                connection.close()


def reap() -> None:
    """Take leave of children that ended: without it they stay as zombies."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _handle(connection: socket.socket) -> None:
    """Fork the command, and say how it ended; the command itself returns from here into the interpreter's own end."""
    length, files, _, _ = socket.recv_fds(connection, 8, 2)
    asked = b""
    while len(asked) < int.from_bytes(length, "big"):
        asked += connection.recv(1 << 16)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(json.loads(asked), files)
    connection.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(asked: dict[str, Any], files: list[int]) -> NoReturn:
    """From here on this process is the command."""
    for stream, file in zip((0, 1, 2), (os.open(os.devnull, os.O_RDONLY), *files), strict=True):
        os.dup2(file, stream)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", *sys.path)]
    command = asked["command"]
    if command[0] == "-P":  # -P ending.py PARENT MODULE …; its parent is the handler, which waits for it
        command = ["-m", *command[3:]]
    kind, what, *arguments = command
    sys.argv = ["-c" if kind == "-c" else what, *arguments]
    code: Any = 0
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    _end(code)


def _end(code: Any) -> NoReturn:
    """The end of an interpreter, but for taking every module of PyTorch apart, which would be most of a child's time."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code or 0)
