"""Networks from a person's own Python: ``my_nets.py:fpn`` or ``my_package.nets:fpn``, and when they may be imported.

**A checkpoint alone never runs code.** Importing a file runs it, so a file that a run's sidecar or a recipe names is
imported only after a person has agreed: by naming the network in this command, or by ``--trust-code`` after reading the
file. What was agreed to is the file's content, by its SHA-256; what it imports itself is not looked at. A file that has
changed since the training is refused in any case: the network could be another one.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kdbench.errors import BadInput, Missing
from kdbench.models.network import Code
from kdbench.runs.files import sha256

if TYPE_CHECKING:
    from torch import nn

TRUSTED = "KDBENCH_TRUSTED_CODE"
"""Environment variable, so that processes which a command starts agree to the same: hashes with commas, or "all"."""


def names_code(arch: str) -> bool:
    """Whether a network's name is a person's own function."""
    module, colon, function = arch.partition(":")
    return bool(colon) and function.isidentifier() and (module.endswith(".py") or "." in module)


def code_of(arch: str) -> Code:
    """Where a name's function is, without importing anything.

    Raises:
        Missing: there is no such file or module.
    """
    module, _, function = arch.rpartition(":")
    return Code(module, function, sha256(_file(module)))


def trust(code: Code) -> None:
    """A person has named this code in the command."""
    agreed = os.environ.get(TRUSTED, "")
    os.environ[TRUSTED] = ",".join(filter(None, [agreed, code.sha256]))


def trust_all() -> None:
    """A person has given --trust-code: whatever a run names is imported, if it is the file that was trained."""
    os.environ[TRUSTED] = "all"


def build(arch: str, classes: int, kwargs: dict[str, Any], recorded: Code | None) -> nn.Module:
    """Call the function with the number of classes.

    Args:
        recorded: by the run that the network is of; None where this command makes a new one.

    Raises:
        BadInput: nobody has agreed to import it, it has changed since, it fails, or it returns no network.
        Missing: there is no such file or module.
    """
    code = code_of(arch)
    if recorded is not None and code.sha256 != recorded.sha256:
        raise BadInput(
            f"'{code.file}', whose function {code.function} builds the network, has changed since the training: sha256 "
            f"{code.sha256[:16]}… now, {recorded.sha256[:16]}… then: put the file of then back, or train again"
        )
    if not {"all", code.sha256} & set(os.environ.get(TRUSTED, "").split(",")):
        raise BadInput(
            f"the network is built by the function {code.function} of '{code.file}' (sha256 {code.sha256[:16]}…), "
            "which this command did not name: read that file first, then add --trust-code to run it"
        )
    import torch

    import kdbench.torchvision_compat  # noqa: F401  before a file that imports torchvision

    try:
        function = getattr(_import(code), code.function, None)
        if not callable(function):
            raise BadInput(f"'{code.file}' has no function {code.function}: expected FILE.py:FUNCTION")
        network = function(classes, **kwargs)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"'{arch}' fails{_where(error, code)} ({type(error).__name__}: {' '.join(str(error).split()):.200}): it is "
            f"called as {code.function}({', '.join([str(classes), *(f'{k}={v!r:.40}' for k, v in kwargs.items())])})"
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise BadInput(f"'{arch}' returned a {type(network).__name__}, expected a torch.nn.Module")
    return network


def _where(error: Exception, code: Code) -> str:
    """ " at line N of the file", the innermost line of the person's own."""
    own = str(_file(code.file))
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    return f" at line {lines[-1]} of '{code.file}'" if lines else ""


def _import(code: Code) -> ModuleType:
    if not code.file.endswith(".py"):
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        return importlib.import_module(code.file)
    path = _file(code.file)
    name = f"kdbench_network_{code.sha256[:16]}"  # by content: a changed file is another module
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))  # it may import its neighbours, as a script may
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def _file(module: str) -> Path:
    """The file of "x.py" or "package.module"; a package's own code is not run to find it.

    Raises:
        Missing: there is none.
    """
    if module.endswith(".py"):
        path = Path(module)
        if not path.is_file():
            raise Missing(f"no file '{module:.200}', whose function builds the network: run the command where it lies")
        return path.absolute()
    places: Any = [os.getcwd(), *sys.path]
    spec: importlib.machinery.ModuleSpec | None = None
    parts = module.split(".")
    for number in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:number]), places)
        if spec is None:
            raise Missing(f"no Python module '{module:.80}', whose function builds the network: install its package")
        places = spec.submodule_search_locations
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise Missing(f"'{module:.80}' is no Python file, expected one with the function that builds the network")
    return Path(spec.origin)
