"""Engines in a process of their own, for files from elsewhere, which may hang or crash; see ``kdbench.machine``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdbench.backends.base import Backend
from kdbench.machine.apart import LIMIT_S, Apart


class Value(NamedTuple):
    """What ONNX Runtime says of an input or output."""

    name: str
    type: str
    shape: list[Any]


class _Session:
    """ONNX Runtime's session over there, in values that can be sent."""

    def __init__(self, path: Path, threads: int, spinning: bool | None) -> None:
        from kdbench.backends.onnx_runtime import open_session

        self._session, self._details = open_session(path, threads=threads, spinning=spinning)

    def about(self) -> dict[str, Any]:
        meta = self._session.get_modelmeta()
        return {
            "inputs": [Value(v.name, v.type, list(v.shape)) for v in self._session.get_inputs()],
            "outputs": [Value(v.name, v.type, list(v.shape)) for v in self._session.get_outputs()],
            "metadata": dict(meta.custom_metadata_map),
            "details": self._details,
        }

    def run(self, names: list[str] | None, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return [np.asarray(value) for value in self._session.run(names, inputs)]


class SessionApart:
    """As ONNX Runtime's own session, as far as ``OnnxFile`` asks.

    Raises:
        BadInput: ONNX Runtime cannot load the file. RunFailed: it hangs or crashes.
    """

    def __init__(
        self, path: Path, *, threads: int, spinning: bool | None, limit_s: float, per_answer: bool = False
    ) -> None:
        self._apart = Apart(_Session, path, threads, spinning, what=f"'{path}'", limit_s=limit_s, per_answer=per_answer)
        self._about: dict[str, Any] = self._apart.call("about")
        self.details: dict[str, Any] = self._about["details"]

    def get_inputs(self) -> list[Value]:
        found: list[Value] = self._about["inputs"]
        return found

    def get_outputs(self) -> list[Value]:
        found: list[Value] = self._about["outputs"]
        return found

    @property
    def metadata(self) -> dict[str, str]:
        found: dict[str, str] = self._about["metadata"]
        return found

    def run(self, names: list[str] | None, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        found: list[NDArray[Any]] = self._apart.call("run", names, inputs)
        return found

    def close(self) -> None:
        self._apart.close()


class _Engine:
    """Any backend over there; an image goes there as it is, and is prepared there."""

    def __init__(self, name: str, artifact: Path, options: dict[str, Any]) -> None:
        from kdbench.backends.load import load_backend

        self._backend = load_backend(name, artifact, **options)

    def about(self) -> dict[str, Any]:
        return {key: getattr(self._backend, key) for key in ("output", "size", "input", "details")}

    def infer(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        return self._backend.infer(self._backend.prepare(image))


class BackendApart(Backend):
    """A backend whose every answer is due within a time; ``prepare`` leaves images as they are.

    Args:
        options: of ``load_backend``: output, device, threads.
        limit_s: seconds for all images together.

    Raises:
        KdbenchError: as ``load_backend``. RunFailed: it hangs or crashes.
    """

    def __init__(self, name: str, artifact: Path, options: dict[str, Any], limit_s: float = LIMIT_S) -> None:
        self._apart = Apart(_Engine, name, artifact, options, what=f"'{artifact}'", limit_s=limit_s)
        for key, value in self._apart.call("about").items():
            setattr(self, key, value)

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        return image

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self._apart.call("infer", batch)
        return found

    def close(self) -> None:
        self._apart.close()
