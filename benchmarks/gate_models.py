"""The gate study's models: a plain one for each cell, and twins that are slower by what was asked for."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path

import torch

from benchmarks.extra_layers import add_layers
from exporters.export_job import ExportJob
from exporters.proven_export import export_as
from kdbench.data.shapes import Shapes
from kdbench.formats import FORMATS
from kdbench.models.registry import build_model
from kdbench.regress.artifact import Filter, find_artifacts, pair
from kdbench.regress.blocks import Settings
from kdbench.regress.gate import run_gate
from kdbench.regress.record import Recording
from kdbench.regress.rule import Rule
from kdbench.regress.signed_rank import SignedRank
from kdbench.runs.checkpoints import save_checkpoint
from kdbench.runs.files import read_json, sha256, write_json, write_sealed
from kdbench.runs.tree import RunTree, sidecar_path

STUDY = Path("runs/gate-study")
"""The models, which ``prepare`` makes again."""
RECORDINGS = Path("results/gate-study")
"""Every live run, call by call, and what the slower models' widths follow from."""
SIZE, CLASSES = (512, 512), 11
CELLS = {
    "student-onnx": ("student", "onnx", 2),
    "student-openvino": ("student", "openvino", 2),
    "lraspp-onnx": ("lraspp_mobilenet_v3_large", "onnx", 1),
}
"""Cell → model, backend, threads."""
SLOWDOWNS = {"+3%": 0.03, "+5%": 0.05, "+10%": 0.10}
PROBES, STEP, PROBE_SECONDS = (64, 256), 16, 120.0
"""Widths of the extra branch that are measured to find those of the slowdowns; engines like multiples of the step."""


def prepare() -> None:
    """Export every model, and twins that are slower by what was asked for."""
    for name, (arch, backend, _) in CELLS.items():
        done = RECORDINGS / f"{name}.json"
        build(name, arch, backend, "base", 0)
        if done.exists():
            for scenario, channels in read_json(done, "prepare")["channels"].items():
                build(name, arch, backend, scenario, channels)
            continue
        ratios = []
        for channels in PROBES:
            build(name, arch, backend, "probe", channels)
            # No verdict can stop it: the ratio is wanted as precisely as the time allows.
            rule = Rule(margin=0.0, tolerance=1e-4, looks=((1.0, 1e-9),))
            recording = measure(name, "base", "probe", budget_s=PROBE_SECONDS, rule=rule)
            ratios.append(math.exp(SignedRank(recording.cells[0].ln_ratios("candidate")).centre))
        per_channel = (ratios[1] - ratios[0]) / (PROBES[1] - PROBES[0])
        widths = {}
        for scenario, slower in SLOWDOWNS.items():
            exact = PROBES[0] + (1 + slower - ratios[0]) / per_channel
            widths[scenario] = max(STEP, STEP * round(exact / STEP))
            build(name, arch, backend, scenario, widths[scenario])
        write_json(done, {"schema_version": 1, "probes": list(PROBES), "ratios": ratios, "channels": widths})
        print(f"{name}: {PROBES} channels take {ratios} x; widths {widths}", flush=True)


def build(name: str, arch: str, backend: str, variant: str, channels: int) -> None:
    """One variant's export, in a tree of its own: the plain model (0 channels), or with an extra branch."""
    tree = RunTree(STUDY / name, variant)
    torch.manual_seed(0)
    about = {"arch": arch, "classes": [str(i) for i in range(CLASSES)], "palette": [], "size": list(SIZE)}
    save_checkpoint(tree.checkpoint("baseline"), build_model(arch, CLASSES).state_dict(), about)
    with ExportJob(tree, "baseline", "mask", samples=[Shapes("val")[0]], allow_drift=True) as job:
        path = export_as(job, backend, "fp32")
        if channels:
            with tempfile.TemporaryDirectory() as folder:
                slower = Path(folder) / "mask.onnx"
                add_layers(job.graph(elementwise=backend == "openvino"), slower, channels)
                if backend == "onnx":
                    shutil.copy(slower, path)
                else:
                    import openvino

                    openvino.save_model(openvino.Core().read_model(slower), path, compress_to_fp16=False)
            sidecar = read_json(sidecar_path(path), "kdbench export")
            sidecar["sha256"] = sha256(path)
            for key in FORMATS[backend].companions:
                sidecar[key]["sha256"] = sha256(FORMATS[backend].companion(path, key))
            write_sealed(sidecar_path(path), sidecar)


def measure(name: str, baseline: str, candidate: str, *, budget_s: float, rule: Rule, seed: int = 0) -> Recording:
    """One verdict of the gate on two variants of a cell."""
    _, backend, threads = CELLS[name]
    sides = [find_artifacts(STUDY / name / side, Filter(backends=(backend,))) for side in (baseline, candidate)]
    settings = Settings(threads=threads, device="cpu", budget_s=budget_s, seed=seed, rule=rule)
    return run_gate(
        pair(sides[0], sides[1], (baseline, candidate)), settings, images=[], allow_different_outputs=False,
        keep=lambda recording: None,
    )  # fmt: skip
