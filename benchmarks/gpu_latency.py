"""Every way to run one network on an NVIDIA GPU, in one process: latency at batch 1, throughput, accuracy, floors.

    python -m benchmarks.gpu_bundle --runs runs --data-root data/camvid        # before, on any machine
    python -m benchmarks.gpu_latency --bundle .gpu/bundle --seconds 240 --out results/gpu/latency.jsonl
    python -m benchmarks.gpu_latency --score --out results/gpu/latency.jsonl --json results/gpu/latency.json

Each way is opened, its masks of every validation image are held against PyTorch's float32 ones (TF32 off) and against
the labels, and it is timed once. The loaded ones are then timed at batch 1 in rounds of shuffled order, and the best of
each kind in batches. Network milliseconds are CUDA events around passes whose images and masks stay on the GPU; image →
mask is the wall clock from and to pinned memory; the pipeline overlaps three batches. All runs on one stream.

A line of the results file is written as soon as its measurement is made. What does not work is kept word for word and
stops nothing. The card's settings are left alone; clocks, power and throttle reasons are recorded before and after.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_bundle import Bundle
from benchmarks.gpu_compile import compile_ahead
from benchmarks.gpu_engine import Engine
from benchmarks.gpu_session import Scene, Session, open_scene, open_way
from benchmarks.gpu_timing import (
    Pipeline,
    convolution_bytes,
    finish,
    measure_floors,
    on_a_stream,
    time_image_to_mask,
    time_network,
)
from benchmarks.gpu_ways import USUAL, WAYS, Opener, Way, module_key
from kdbench.data.preprocessing import Size, parse_size
from kdbench.errors import KdbenchError
from kdbench.machine.environment import environment
from kdbench.machine.state import gpu_clocks
from kdbench.models.registry import count_gflops
from kdbench.runs.files import write_json

ROUNDS, NETWORK_SAMPLES, CALLS = 5, 10, 50
SHARE_OF_FIRST_SIZE, SHARE_OF_OPENING = 0.7, 0.6
"""Of the seconds: the first of several sizes' share, and within a size that of opening every way at batch 1."""
WORTHWHILE, LARGEST_BATCH = 1.03, 1024
"""Gain in images per second from a batch twice as large, below which the throughput is flat."""


def measure_single(session: Session, scene: Scene, way: Way, engine: Engine, number: int) -> float:
    """Time a loaded way at batch 1 as a part of round ``number``; its median ms from image to mask."""
    network = time_network(engine, session.device, NETWORK_SAMPLES)
    whole = time_image_to_mask(engine, scene.batch(1), session.device, CALLS)
    session.write("round", **scene.where(way, 1), round=number, network_ms=network, image_to_mask_ms=whole)
    return statistics.median(whole)


def measure_singles(session: Session, scene: Scene, ways: list[Way], until: float) -> dict[Way, float]:
    """Open every way at batch 1, then time those that work in rounds; way → best ms from image to mask."""
    engines: dict[Way, Engine] = {}
    best: dict[Way, float] = {}
    for way in ways:
        where = scene.where(way, 1)
        if not session.has_time(where, session.seconds_to_open(way, 1, scene.size), until):
            continue

        def first(way: Way = way) -> tuple[Engine, float]:
            engine = open_way(session, scene, way, 1)
            return engine, measure_single(session, scene, way, engine, 0)

        if (opened := session.attempt(f"{where['size']}: {way.name}", where, first)) is not None:
            engines[way], best[way] = opened
            print(f"  {best[way]:.3f} ms from image to mask", flush=True)
    rng = np.random.default_rng(0)
    for number in range(1, ROUNDS + 1):
        if time.monotonic() > session.until:
            break
        for index in rng.permutation(len(engines)):
            way = list(engines)[index]
            what = f"{scene.size[0]}x{scene.size[1]}: round {number}, {way.name}"
            session.attempt(
                what, scene.where(way, 1), partial(measure_single, session, scene, way, engines[way], number)
            )
    return best


def best_of_each_kind(best: dict[Way, float]) -> list[Way]:
    """The fastest way of every runtime, fastest first, and the usual one."""
    ranked = sorted(best, key=lambda way: best[way])
    firsts = {way.runtime: way for way in reversed(ranked)}
    usual = [way for way in ranked if way.name == USUAL]
    return [*(way for way in ranked if way in firsts.values() and way.name != USUAL), *usual]


def measure_batches(session: Session, scene: Scene, ways: list[Way], batches: tuple[int, ...], until: float) -> None:
    """Throughput of ``ways``, largest batch first; the first way goes on to larger ones while that pays."""
    rates: dict[int, float] = {}
    for batch in sorted((b for b in batches if b > 1), reverse=True):
        for way in ways:
            rate = measure_batch(session, scene, way, batch, until)
            if way is ways[0] and rate:
                rates[batch] = rate
    while len(rates) > 1 and max(rates) < LARGEST_BATCH:
        smaller, largest = sorted(rates)[-2:]
        if rates[largest] < WORTHWHILE * rates[smaller]:
            return
        rate = measure_batch(session, scene, ways[0], 2 * largest, until)
        if not rate:
            return
        rates[2 * largest] = rate


def measure_batch(session: Session, scene: Scene, way: Way, batch: int, until: float) -> float | None:
    """Images per second through the pipeline; None where it was not measured."""
    where = scene.where(way, batch)
    if not session.has_time(where, session.seconds_to_open(way, batch, scene.size), until):
        return None

    def work() -> float:
        engine = open_way(session, scene, way, batch)
        images = scene.batch(batch)
        network = time_network(engine, session.device, 3)
        whole = time_image_to_mask(engine, images, session.device, 10)
        pipeline = Pipeline(engine, images, session.device)
        count = max(6, min(60, round(1000 / statistics.median(whole))))
        pipeline.run(3)
        rate = count * batch / pipeline.run(count)
        session.write(
            "batch", **where, network_ms=network, image_to_mask_ms=whole, pipeline_images_per_second=rate,
            peak_memory_mib=torch.cuda.max_memory_allocated() / 2**20 if session.device == "cuda" else None,
        )  # fmt: skip
        return rate

    rate = session.attempt(f"{where['size']}: {way.name}, batch {batch}", where, work)
    session.opener.forget(batch)
    if rate:
        print(f"  {rate:.0f} images/s", flush=True)
    return rate


def run(session: Session, arguments: argparse.Namespace, sizes: list[Size], ways: list[Way]) -> None:
    """All of it, most telling first, until the seconds are over."""
    started, manifest = time.monotonic(), session.opener.bundle.manifest
    classes = len(manifest["classes"])
    tf32 = {"cudnn": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32}
    session.write(
        "start", device=session.device, seconds=arguments.seconds, tf32=tf32,
        bundle={key: manifest[key] for key in ("dataset", "method", "arch", "classes", "exports")},
        work={
            f"{size[0]}x{size[1]}": {
                "operations": 1e9 * count_gflops(manifest["arch"], classes, size),
                "bytes": convolution_bytes(manifest["arch"], classes, size),
            }
            for size in sizes
        },
        environment=session.attempt("environment", {"way": "environment"}, environment), gpu=gpu_clocks(),
    )  # fmt: skip
    if arguments.compile_seconds:
        session.attempt(
            "compile side by side", {"way": "compile"}, partial(compile_all, session, arguments, sizes, ways)
        )
    floors = session.attempt("floors", {"way": "floors"}, lambda: measure_floors(session.device))
    if floors:
        session.write("floors", **floors)
    samples = session.opener.bundle.samples()
    for index, size in enumerate(sizes):
        last = index == len(sizes) - 1
        end = session.until if last else started + SHARE_OF_FIRST_SIZE * (session.until - started)
        name = f"{size[0]}x{size[1]}"
        reference = partial(open_scene, session.opener, samples, size)
        scene = session.attempt(f"{name}: reference", {"way": "reference", "size": name}, reference)
        if scene is not None:
            opening_end = time.monotonic() + SHARE_OF_OPENING * (end - time.monotonic())
            best = measure_singles(session, scene, ways, opening_end)
            if best:
                measure_batches(session, scene, best_of_each_kind(best), arguments.batches, end)
        session.opener.forget(1)
    finish(session.device)
    session.write("end", gpu=gpu_clocks(), seconds=time.monotonic() - started)


def compile_all(session: Session, arguments: argparse.Namespace, sizes: list[Size], ways: list[Way]) -> None:
    """Fill the compiler's cache for the first size: every compiled way at batch 1, the first one at each batch."""
    compiled = [way for way in ways if way.runtime == "torch.compile"]
    different = list({module_key(way, 1, sizes[0]): way for way in compiled}.values())
    work = [(way, 1, sizes[0]) for way in different]
    work += [(way, batch, sizes[0]) for way in different[:1] for batch in arguments.batches if batch > 1]
    log = arguments.out.with_suffix(".compile.log")
    seconds, done = compile_ahead(arguments.bundle, session.device, work, arguments.compile_seconds, log)
    session.write("compiled", seconds=seconds, work=[[way.name, batch] for way, batch, _ in done])
    session.cached = {module_key(*one) for one in done}


def selected(only: str | None, skip: str | None) -> list[Way]:
    """The ways whose names are given, less those to skip."""

    def named(text: str, flag: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        known = [way.name for way in WAYS]
        if wrong := [name for name in names if name not in known]:
            raise SystemExit(f"{flag}: got '{wrong[0]}', expected some of {', '.join(known)}")
        return names

    wanted = named(only, "--only") if only else [way.name for way in WAYS]
    unwanted = named(skip, "--skip") if skip else []
    return [way for way in WAYS if way.name in wanted and way.name not in unwanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path(".gpu/bundle"), help="what gpu_bundle made")
    parser.add_argument("--sizes", default="512x512,360x480", help="the most telling first")
    parser.add_argument(
        "--batches", type=lambda text: tuple(map(int, text.split(","))), default=(1, 16, 64, 256), help="1,16,64,256"
    )
    parser.add_argument("--seconds", type=float, default=240, help="nothing is started after these")
    parser.add_argument(
        "--compile-seconds", type=float, default=0, help="compile side by side in processes before, at most these"
    )
    parser.add_argument("--cached", action="store_true", help="benchmarks.gpu_compile has filled the compiler's cache")
    parser.add_argument("--only", help="names of ways, with commas between them")
    parser.add_argument("--skip", help="names of ways, with commas between them")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the script")
    parser.add_argument("--out", type=Path, default=Path("results/gpu/latency.jsonl"))
    parser.add_argument("--score", action="store_true", help="print what the last run in --out measured")
    parser.add_argument("--json", type=Path, help="with --score: also write it to this file")
    arguments = parser.parse_args()
    if arguments.score:
        from benchmarks.gpu_score import as_text, read_last_run, score

        try:
            report = score(read_last_run(arguments.out))
        except KdbenchError as error:
            raise SystemExit(str(error)) from error
        print(as_text(report))
        if arguments.json:
            write_json(arguments.json, report)
        return
    sizes = [parse_size(text) for text in arguments.sizes.split(",")]
    ways = selected(arguments.only, arguments.skip)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmarks.gpu_latency needs an NVIDIA GPU, and this PyTorch sees none")
    until = time.monotonic() + arguments.seconds
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        bundle = Bundle.open(arguments.bundle)
    except KdbenchError as error:
        raise SystemExit(str(error)) from error
    opener = Opener(bundle, arguments.device, arguments.out.with_suffix(".log"))
    session = Session(opener, arguments.out, until)
    if arguments.cached:
        session.cached = None
    with on_a_stream(arguments.device):
        run(session, arguments, sizes, ways)
    print(f"done: now --score --out {arguments.out}")


if __name__ == "__main__":
    main()
