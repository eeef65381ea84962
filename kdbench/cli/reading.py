"""Flags that say how an ONNX file from elsewhere is read, for the commands that take one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.errors import BadInput

if TYPE_CHECKING:
    from kdbench.backends.onnx_layout import Reading

Mean = Annotated[
    str | None, typer.Option(help="Of a float input's channels as the network takes them, as 0.485,0.456,0.406.")
]
Std = Annotated[str | None, typer.Option(help="As --mean.")]
Range = Annotated[
    str | None, typer.Option("--range", help="1 or 255: a white pixel before --mean. Default: 255 with a mean above 1.")
]
Bgr = Annotated[bool | None, typer.Option("--bgr/--rgb", help="The order of the channels that the network takes.")]
FileSize = Annotated[str | None, typer.Option("--size", help="HEIGHTxWIDTH, for an .onnx file that leaves them open.")]
OutputName = Annotated[str | None, typer.Option(help="Of several outputs of an .onnx file, the one to use.")]
OutputLayout = Annotated[
    str | None, typer.Option(help="NCHW or NHWC, for an .onnx file's output whose shape could be either.")
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Of a one-channel output: class 1 is above it. Default: 0 of logits, 0.5 of probabilities."),
]


def make_reading(**flags: Any) -> Reading:
    """What the flags say.

    Args:
        flags: mean, std, range, bgr, size, output_name, output_layout, threshold as they were typed, any of them; and
            fields of ``Reading`` that no flag has.

    Raises:
        BadInput: a flag that cannot be read.
    """
    from kdbench.backends.onnx_layout import LAYOUTS, Reading
    from kdbench.data.preprocessing import parse_size

    text, layout, size = flags.pop("range", None), flags.pop("output_layout", None), flags.pop("size", None)
    if text not in (None, "1", "255"):
        raise BadInput(f"--range: got '{text}', expected 1 or 255")
    if layout not in (None, *LAYOUTS):
        raise BadInput(f"--output-layout: got '{layout}', expected {' or '.join(LAYOUTS)}")
    return Reading(
        size=parse_size(size) if size else None,
        mean=triple("--mean", flags.pop("mean", None)),
        std=triple("--std", flags.pop("std", None)),
        range=None if text is None else int(text),
        output=flags.pop("output_name", None),
        layout=layout,
        **flags,
    )


def triple(flag: str, text: str | None) -> tuple[float, ...] | None:
    """Three numbers with commas."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise BadInput(f"{flag}: got '{text}', expected three numbers, for example 0.485,0.456,0.406")
    return values
