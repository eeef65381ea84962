"""One side's process: loads an artifact, and times calls when it is told to.

Run as a file, ``python -P worker.py SPEC``, with the side's own checkout first on PYTHONPATH: both sides are timed by
this very file, and run their artifact through their own ``kdbench``. On standard input it reads one command a line, on
standard output it answers each with one line of JSON:

    calls N REPEAT  N samples of milliseconds per call, each over REPEAT calls, after one call that is not counted
    outputs FILE    write what every input gives to FILE (.npz)

Between commands it sleeps in a read. Standard input's end ends it.
"""

import gc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    # Engines print to standard output now and then; answers go where they cannot.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    # Suspended between its turns, it would stay for ever.
    about = importlib.util.spec_from_file_location("ending", Path(__file__).parents[1] / "machine" / "ending.py")
    assert about is not None
    assert about.loader is not None
    ending = importlib.util.module_from_spec(about)
    about.loader.exec_module(ending)
    ending.die_with_parent(spec.get("parent", os.getppid()))

    def answer(document: object) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    import numpy as np

    started = time.perf_counter()
    call = open_call(spec)
    load_ms = (time.perf_counter() - started) * 1e3
    inputs = list(np.load(spec["inputs"]))
    gc.disable()  # a collection inside a call would be one side's bad luck
    first_ms = timed(call, inputs, 1, 1)[0]
    answer({"load_ms": load_ms, "first_ms": first_ms, "peak_mib": peak_mib()})
    for line in sys.stdin:
        command, argument = line.split(maxsplit=1)
        if command == "calls":
            samples, repeat = map(int, argument.split())
            call(inputs[-1])  # wakes threads and fills caches
            answer(timed(call, inputs, samples, repeat))
        elif command == "outputs":
            np.savez(argument.rstrip("\n"), **{str(i): call(x) for i, x in enumerate(inputs)})
            answer("written")
        else:
            raise ValueError(f"unknown command {command!r}")


def open_call(spec):
    """The function that is timed: one input to one output, in host memory."""
    import kdbench

    found = Path(kdbench.__file__).resolve().parents[1]
    if found != Path(spec["checkout"]).resolve():
        raise RuntimeError(f"the side's own kdbench is in {spec['checkout']}, but {found} was imported")
    if spec["backend"] == "onnx-file":
        from kdbench.backends.onnx_runtime import open_session

        session, _ = open_session(Path(spec["artifact"]), device=spec["device"], threads=spec["threads"])
        name = session.get_inputs()[0].name
        return lambda batch: session.run(None, {name: batch})[0]
    from kdbench.backends import load_backend

    backend = load_backend(
        spec["backend"],
        Path(spec["artifact"]),
        output=spec["output"],
        device=spec["device"],
        threads=spec["threads"],
    )
    return backend.infer


def timed(call, inputs, samples, repeat):
    """``samples`` x milliseconds per call, each over ``repeat`` calls; calls take the inputs in turn."""
    milliseconds = []
    index = 0
    for _ in range(samples):
        started = time.perf_counter_ns()
        for _ in range(repeat):
            call(inputs[index % len(inputs)])
            index += 1
        milliseconds.append((time.perf_counter_ns() - started) / 1e6 / repeat)
    return milliseconds


def peak_mib() -> float:
    """The most memory that this process held so far."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
