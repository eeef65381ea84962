"""``kdbench model``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kdbench.cli.app import app
from kdbench.cli.options import JsonFile, json_result, trust_named


@app.command(rebuilds=True)
def model(
    arch: Annotated[
        str | None,
        typer.Option(
            help="{arch}, or several with +; {sources}; or your own: FILE.py:FUNCTION. Default: the usual student."
        ),
    ] = None,
    classes: Annotated[int, typer.Option(help="Classes to tell apart.", min=1)] = 21,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the network's input.")] = "512x512",
    json_file: JsonFile = None,
) -> None:
    """Try a network without data: parameters and GFLOPs by stage, and the feature maps that distillation reads.

    GFLOPs are of one image, a multiply-add counted as two; stride is the image's side over the map's.

    Examples:
      kdbench model --classes 11 --size 360x480
      kdbench model --arch timm:mobilenetv3_small_100
      kdbench model --arch my_nets.py:fpn
    """
    from kdbench.data.preprocessing import parse_size
    from kdbench.machine.environment import environment
    from kdbench.models.architectures import students
    from kdbench.models.describe import describe
    from kdbench.models.network import Network

    with json_result(json_file) as document:
        if arch is not None:
            trust_named(arch)
        report = describe(Network.parse(arch or students()[0], "--arch"), classes, parse_size(size))
        print("\n".join(lines(report)))
        document.update(report, environment=environment())


def lines(report: dict[str, Any]) -> list[str]:
    """The report as a person reads it."""
    from kdbench.models.network import Network

    told = report["input"]
    params, gflops = report["params"], report["gflops"]
    height, width = report["size"]

    def row(name: str, of_params: int, of_gflops: float) -> str:
        return (
            f"{name:<22}{of_params:>12,}{of_params / params:>8.1%}"
            f"{of_gflops:>10.3f}{of_gflops / gflops if gflops else 0:>8.1%}"
        )

    taps = [
        f"{tap['name']:<8} stride {tap['stride']:<4}{tap['channels']:>5} x {tap['size'][0]} x {tap['size'][1]}"
        + (f"   {tap['module']}" if "module" in tap else "")
        for tap in report["taps"]
    ]
    return [
        f"{Network.recorded(report).label}, {report['classes']} classes, input {height} x {width}",
        f"images: {told['space']} from 0 to {told['range']}, mean {told['mean']}, std {told['std']}",
        "",
        f"{'stage':<22}{'parameters':>12}{'':>8}{'GFLOP':>10}",
        *(row(stage["name"], stage["params"], stage["gflops"]) for stage in report["stages"]),
        row("total", params, gflops),
        "",
        "taps, channels x height x width",
        *taps,
    ]
