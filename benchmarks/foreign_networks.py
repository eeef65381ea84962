"""Networks that were not written for kdbench, through every stage: as a student, as a teacher, and every export.

    python -m benchmarks.foreign_networks --data-root data/camvid --runs runs/foreign

Each network is trained for an epoch (SegFormer for three) on CamVid as the student, then as the teacher of the
built-in student (response and feature distillation), by ``kdbench train`` as a person would; then the student is
exported to every format and precision. What an export's proof says stands in the results, and why a row could not be
made. Finished trainings are skipped. Prints one table; writes ``results/foreign-networks.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.formats import FORMATS
from kdbench.machine.environment import environment
from kdbench.runs.files import read_json, write_json
from kdbench.runs.tree import RunTree, sidecar_path

CHECKOUT = Path(__file__).resolve().parent.parent
OWN = CHECKOUT / "tests" / "networks" / "pyramid.py"
SIZE = "192x256"
"""Multiples of 32, which smp's networks want."""
TRAINING = ("--recipe", "camvid", "--size", SIZE, "--batch-size", "4", "--seed", "1")


@dataclass(frozen=True)
class Case:
    """A network: its folder below ``--runs``, its name on the command line, and what it takes to tell six classes."""

    folder: str
    network: str
    epochs: int = 1


CASES = (
    Case("own", f"{OWN}:pyramid(width=24)"),
    Case("timm-mobilenetv3", "timm:mobilenetv3_small_100"),
    Case("timm-lite0", "timm:efficientnet_lite0"),
    Case("torchvision-deeplabv3", "torchvision:deeplabv3_mobilenet_v3_large"),
    Case("segformer-b0", "transformers:segformer_b0", epochs=3),
    Case("smp-unet-timm", "smp:Unet(encoder_name='tu-mobilenetv3_small_100')"),
    Case("smp-fpn", "smp:FPN(encoder_name='resnet18')"),
)


def kdbench(*arguments: str) -> tuple[int, str, float]:
    """A command in a process of its own: exit code, the last line of stderr, seconds."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "kdbench", *arguments, "--quiet"], capture_output=True, text=True,
    )  # fmt: skip
    lines = done.stderr.strip().splitlines() or [""]
    return done.returncode, lines[-1][:300], round(time.monotonic() - started, 1)


def trained(case: Case, runs: Path, data: list[str]) -> dict[str, Any]:
    """Both trainings; in each what was said where it failed, and mIoU."""
    found: dict[str, Any] = {}
    for role, flags in (
        ("student", ["--method", "baseline", "--student", case.network]),
        ("teacher", ["--method", "teacher,response,feature", "--teacher", case.network]),
    ):
        folder = runs / case.folder / role
        code, said, seconds = kdbench(
            "train", *flags, *TRAINING, "--epochs", str(case.epochs), *data, "--runs", str(folder), "--resume"
        )
        tree = RunTree(folder, "camvid")
        sidecars = [
            read_json(sidecar_path(path), "kdbench train")
            for variant in tree.variants()
            for method in ("teacher", "baseline", "response", "feature")
            for path in tree.of_variant(variant).seed_checkpoints(method)
            if variant is None or method != "teacher"
        ]
        found[role] = {
            "exit_code": code, "seconds": seconds,
            "miou": {about["method"]: round(about["miou"], 4) for about in sidecars},
            "taps": {level: tap["module"] for level, tap in sidecars[0].get("network", {}).get("taps", {}).items()}
            if sidecars else {},
            **({"said": said} if code else {}),
        }  # fmt: skip
    return found


def exported(case: Case, runs: Path, data: list[str]) -> dict[str, Any]:
    """Format and precision → the proof of that export, or why there is none."""
    folder = runs / case.folder / "student"
    report = folder / "export.json"
    code, said, seconds = kdbench(
        "export", "--method", "baseline", "--format", "all", "--precision", "all", "--runs", str(folder),
        "--dataset", "camvid", *data, "--json", str(report), "--trust-code",
    )  # fmt: skip
    attempts = json.loads(report.read_text())["exports"] if report.exists() else []
    rows = {}
    for attempt in attempts:
        name = f"{attempt['format']} {attempt['precision']}"
        row = {"status": attempt["status"], **({"reason": attempt["reason"]} if attempt.get("reason") else {})}
        if path := attempt.get("path"):
            about = read_json(sidecar_path(Path(path)), "kdbench export")
            parity = about.get("parity")
            if parity is not None:
                kept = ("pixel_agreement", "classes_seen", "max_logit_difference", "miou_reference", "miou_candidate")
                row |= {key: parity[key] for key in kept if key in parity}
        rows[name] = row
    return {"exit_code": code, "said": said, "seconds": seconds, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data/camvid"))
    parser.add_argument("--runs", type=Path, default=Path("runs/foreign"))
    parser.add_argument("--only", nargs="*", choices=[case.folder for case in CASES])
    parser.add_argument("--json", type=Path, default=Path("results/foreign-networks.json"))
    arguments = parser.parse_args()
    data = ["--dataset", "camvid", "--data-root", str(arguments.data_root)]
    data_root = ["--data-root", str(arguments.data_root)]
    networks: dict[str, Any] = read_json(arguments.json, "").get("networks", {}) if arguments.json.exists() else {}
    for case in CASES:
        if arguments.only and case.folder not in arguments.only:
            continue
        about = {"network": case.network.replace(f"{CHECKOUT}/", ""), "epochs": case.epochs}
        networks[case.folder] = (
            about | trained(case, arguments.runs, data) | {"exports": exported(case, arguments.runs, data_root)}
        )
        write_json(
            arguments.json,
            {
                "schema_version": 1, "environment": environment(), "size": SIZE, "formats": list(FORMATS.names()),
                "networks": {c.folder: networks[c.folder] for c in CASES if c.folder in networks},
            },
        )  # fmt: skip
        print("\n".join(lines(case.folder, networks[case.folder])), flush=True)
    print(json.dumps({"written": str(arguments.json)}))


def lines(folder: str, about: dict[str, Any]) -> list[str]:
    """One network as a person reads it."""
    head = f"{folder}: student {about['student']['miou']}, as teacher {about['teacher']['miou']}"
    rows = []
    for name, row in about["exports"]["rows"].items():
        told = row["status"]
        if "pixel_agreement" in row:
            told += (
                f", {100 * row['pixel_agreement']:.3f}% of pixels, {row['classes_seen']} classes, "
                f"largest difference of logits {row.get('max_logit_difference')}"
            )
        rows.append(f"  {name:<16}{told} {row.get('reason', '')}")
    return [head, *rows]


if __name__ == "__main__":
    main()
