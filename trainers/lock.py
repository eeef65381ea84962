"""One training per folder: a lock that the operating system drops with its process, however that ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from filelock import FileLock, Timeout

from kdbench.errors import BadInput
from kdbench.runs.beside import remove_leftovers
from kdbench.runs.folder import RunFolder


@contextmanager
def locked(folders: Sequence[RunFolder]) -> Iterator[None]:
    """Make ``folders`` and hold them for this process while the block runs; clean up after killed trainings.

    The file ``.lock`` stays, and means nothing by itself: a process that is gone never blocks.

    Raises:
        BadInput: another process trains in one of them, or one cannot be made or written.
    """
    with ExitStack() as stack:
        for folder in folders:
            try:
                folder.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(folder.lock, timeout=0))
            except Timeout as error:
                raise BadInput(
                    f"'{folder.path}' is in use by another `kdbench train`, expected one training per folder: "
                    "wait for it, or give this one another --runs"
                ) from error
            except (OSError, NotImplementedError) as error:
                reason = getattr(error, "strerror", None) or error
                raise BadInput(
                    f"--runs: '{folder.path}' cannot be made, written and locked ({reason}): name a folder that can be"
                ) from error
            for file in folder.written:
                remove_leftovers(file)
        yield
