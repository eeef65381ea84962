"""Ways to damage a file: any bytes, and what JSON, TOML, safetensors, PNG and ONNX files can be made to say.

Each takes the file's bytes and a seeded generator, and returns other bytes and a name for what was done.
"""

from __future__ import annotations

import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

Damage = Callable[[bytes, random.Random], tuple[bytes, str]]

RAW = "\0raw:"
"""Before text that goes into a JSON document as it is, where it may be no JSON."""
VALUES: dict[str, list[Any]] = {
    "another type": [None, True, "text", 7, 0.5, [], {}, [1, "a", None], {"a": {"b": 1}}, [[]]],
    "a huge whole number": [RAW + "9" * 5000, 10**30, 2**63, -(2**63) - 1],
    "a huge number": [1e308, -1e308, RAW + "1e999"],
    "no number": [RAW + "NaN", RAW + "Infinity", RAW + "-Infinity"],
    "a negative or zero": [-1, -0.5, 0, 0.0, -1e-9],
    "an odd text": [
        "", "x" * 20_000, "a\nb\tc", "\x00", "\ud800", "$\\frac{$_^{", "<script>alert(1)</script>", "[red]x[/]",
        "../../x", "/dev/zero", "%s%n{}", "\u202e\u0301", "a|b", "--json", "smp:Nothing",
    ],
    "deep nesting": [RAW + "[" * 900 + "]" * 900, RAW + "[" * 100_000, RAW + '{"a":' * 300 + "1" + "}" * 300],
    "much": [list(range(5000)), {str(i): i for i in range(3000)}],
}  # fmt: skip


def any_bytes(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """What disks, networks and editors do."""
    way = rng.choice(["bits", "bit", "cut", "empty", "zeros", "part twice", "part lost", "noise", "other", "more"])
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    if way in ("bits", "bit"):
        changed = bytearray(data)
        for _ in range(1 if way == "bit" else rng.randint(2, 50)):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed), "a bit" if way == "bit" else "bits"
    made = {
        "cut": data[:at], "empty": b"", "zeros": data[:at] + bytes(end - at) + data[end:],
        "part twice": data[:end] + data[at:], "part lost": data[:at] + data[end:],
        "noise": data[:at] + rng.randbytes(rng.randint(1, 64)) + data[at:], "other": rng.randbytes(rng.randint(1, 999)),
        "more": data + rng.randbytes(rng.randint(1, 99)),
    }  # fmt: skip
    return made[way], way


def json_value(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A field that is another value, is gone, or is there under another name; the seal goes with it."""
    document = json.loads(data)
    document.pop("seal", None)
    return _raw(document, rng, said := []), f"{said[0]}: {said[1]}" if said else "no field"


def _raw(document: Any, rng: random.Random, said: list[str]) -> bytes:
    holder, key, place = rng.choice(_places(document, ""))
    way = rng.choice([*VALUES, *["another type"] * 2, "gone", "renamed"])
    said += [way, re.sub(r"\d+", "#", place)]
    if way == "gone":
        del holder[key]
    elif way == "renamed" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder[key] = rng.choice(VALUES["another type" if way == "renamed" else way])
    text = json.dumps(document)
    return re.sub(r'"\\u0000raw:((?:[^"\\]|\\.)*)"', lambda m: json.loads(f'"{m[1]}"'), text).encode("utf-8")


def _places(value: Any, where: str, depth: int = 0) -> list[tuple[Any, Any, str]]:
    """(holder, key, path) of every value; of a long list the first two, so that names are hit as often as numbers."""
    entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value))[:2]
    found = []
    for key, inner in entries:
        place = f"{where}.{key}" if where else str(key)
        # Fields that stand high weigh more: most of what is read stands there.
        found += [(value, key, place)] * max(1, 4 - 2 * depth)
        if isinstance(inner, dict | list):
            found += _places(inner, place, depth + 1)
    return found


def json_lines(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    way = rng.choice(["value", "value", "value", "twice", "lost", "not JSON", "swapped"])
    if way == "value":
        changed = _raw(json.loads(lines[at]), rng, said := [])
        lines[at] = changed + b"\n"
        return b"".join(lines), f"{said[0]}: {said[1]}"
    if way == "twice":
        lines.insert(at, lines[at])
    elif way == "lost":
        del lines[at]
    elif way == "swapped":
        lines.reverse()
    else:
        lines[at] = rng.choice([b"\n", b"[]\n", b"1\n", b"null\n", b"{\n", b"\xff\n", b'{"epoch": 1}\n'])
    return b"".join(lines), f"line {way}"


TOML_VALUES = [
    '""', "[]", "{}", "true", "-1", "0", "nan", "inf", "-inf", "1e308", "9" * 5000, "9223372036854775808", "1979-05-27",
    '"x"', '["a", 1]', "[[]]", "{a={b=1}}", '"' + "x" * 5000 + '"', '"../.."', '"/dev/zero"', '"["', '"(a+)+$"', '"**"',
    '"\\u0000"', '"{stem}{stem}"', '"{nothing}"', "'''a\nb'''", "[" * 500 + "]" * 500, "0x7fffffffffffffffff", "[1, 1]",
]  # fmt: skip


def toml_text(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    lines = data.decode().splitlines()
    at = rng.choice([i for i, line in enumerate(lines) if line.strip()])
    way = rng.choice(["value", "value", "value", "value", "gone", "twice", "renamed", "unclosed", "unknown"])
    key = lines[at].partition("=")[0].strip()
    if way == "value":
        lines[at] = f"{key or 'a'} = {rng.choice(TOML_VALUES)}"
    elif way == "gone":
        del lines[at]
    elif way == "twice":
        lines.insert(at, lines[at])
    elif way == "renamed":
        lines[at] = f"x{lines[at]}"
    elif way == "unclosed":
        lines[at] += rng.choice(['"', "[", "{", "'", " = "])
    else:
        lines.insert(at, f"{rng.choice(['unknown', 'a.b.c', '[table]', '1'])} = 1")
    return "\n".join(lines).encode(), f"{way}: {key}" if way in ("value", "gone", "renamed") else f"line {way}"


def text_lines(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Of a list of names."""
    lines = data.decode().splitlines()
    at = rng.randrange(len(lines))
    way = rng.choice(["gone", "twice", "odd", "empty", "colours", "many"])
    if way == "gone":
        del lines[at]
    elif way == "twice":
        lines.insert(at, lines[at])
    elif way == "many":
        lines += [f"name{i}" for i in range(rng.choice([200, 300, 70_000]))]
    else:
        odd = rng.choice([v for v in VALUES["an odd text"] if v.isprintable()])
        lines[at] = {"odd": odd, "empty": "", "colours": f"{lines[at]} #12345{rng.choice('6gé')}"}[way]
    return "\n".join(lines).encode(), f"line {way}"


def safetensors(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Its header: a length that claims too much, other types, shapes and places."""
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if rng.random() < 0.3:
        claimed = rng.choice([0, 1, length - 1, length + 1, 2**62, 2**64 - 1, 100_000_000, len(data)])
        return struct.pack("<Q", claimed) + data[8:], "header's length"
    name = rng.choice(sorted(header))
    way = rng.choice(["dtype", "shape", "data_offsets", "name", "value", "NaN weights"])
    if way == "name":
        header[f"{name}x"] = header.pop(name)
    elif way == "NaN weights":
        return data[: 8 + length] + b"\xff" * len(body), way
    elif way == "value" or not isinstance(header[name], dict):
        header[name] = rng.choice(VALUES["another type"])
    else:
        choices = {
            "dtype": ["F64", "F16", "I64", "U8", "BOOL", "F8_E4M3", "nothing"],
            "shape": [[], [0], [1], [2**40, 2**40], [-1], [1] * 100, "x"],
            "data_offsets": [[0, 0], [4, 0], [0, 2**60], [-4, 0], [1, 2], []],
        }
        header[name][way] = rng.choice(choices[way])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body, f"header's {way}"


def png(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """What its header claims, with a checksum that fits."""
    field, values = rng.choice([
        ("width", [0, 1, 65_535, 2**31 - 1]), ("height", [0, 1, 65_535, 2**31 - 1]), ("bits", [1, 4, 16, 77]),
        ("colours", [0, 2, 3, 4, 6, 9]), ("interlace", [1, 7]),
    ])  # fmt: skip
    place, form = {
        "width": (16, ">I"), "height": (20, ">I"), "bits": (24, "B"), "colours": (25, "B"), "interlace": (28, "B"),
    }[field]  # fmt: skip
    changed = bytearray(data)
    struct.pack_into(form, changed, place, rng.choice(values))
    struct.pack_into(">I", changed, 29, zlib.crc32(changed[12:29]))
    return bytes(changed), f"PNG's {field}"


def onnx_graph(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A whole file that says something else."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    way = rng.choice([
        "dims", "type", "node gone", "operator", "wire", "opset", "input's side", "no output", "outside data",
        "metadata", "two inputs", "output's type", "NaN weights", "attribute", "domain", "cycle",
    ])  # fmt: skip
    node, weight = rng.choice(graph.node), rng.choice(graph.initializer)
    if way == "dims":
        weight.dims[:] = rng.choice([[], [0], [-1], [2**40, 2**40], [1], [3, 3, 3, 3, 3]])
    elif way == "type":
        weight.data_type = rng.choice([0, 2, 7, 8, 10, 16, 99])
    elif way == "node gone":
        graph.node.remove(node)
    elif way == "operator":
        node.op_type = rng.choice(["Nothing", "Relu", "Loop", "If", "Resize", "Conv", "NonZero", ""])
    elif way == "wire":
        node.input[:] = [rng.choice(["nowhere", "", *[w.name for w in graph.initializer]]) for _ in node.input]
    elif way == "opset":
        model.opset_import[0].version = rng.choice([0, 1, 6, 99, 2**40, -1])
    elif way == "input's side":
        shape = graph.input[0].type.tensor_type.shape
        rng.choice(shape.dim).dim_value = rng.choice([0, 1, -1, 7, 2**20, 2**40])
    elif way == "no output":
        del graph.output[:]
    elif way == "outside data":
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=rng.choice(["none.bin", "../../etc/passwd", "/dev/zero", ""]))
    elif way == "metadata":
        del model.metadata_props[:]
        about = {"schema_version": 1, "classes": ["a", "b"], "palette": [[0, 0, 0]] * 2, "size": [64, 64],
                 "output": "mask", "normalisation": {"mean": [0.5] * 3, "std": [0.5] * 3}}  # fmt: skip
        model.metadata_props.add(key="kdbench", value=_raw(about, rng, said := []).decode())
        way = f"metadata, {said[0]}: {said[1]}"
    elif way == "two inputs":
        graph.input.add().CopyFrom(graph.input[0])
        graph.input[-1].name = "more"
    elif way == "output's type":
        graph.output[0].type.tensor_type.elem_type = rng.choice([0, 2, 7, 8, 9, 10, 16])
    elif way == "NaN weights":
        weight.raw_data = b"\xff" * len(weight.raw_data)
    elif way == "attribute":
        node.attribute.add(name=rng.choice(["axis", "perm", "group", "to"]), type=2, i=rng.choice([-9, 0, 2**40]))
    elif way == "domain":
        node.domain = "nobody.knows"
    else:
        node.input[0] = node.output[0]
    return model.SerializeToString(), way


DAMAGES: dict[str, tuple[Damage, ...]] = {
    "json": (json_value, json_value, json_value, any_bytes),
    "lines": (json_lines, json_lines, any_bytes),
    "toml": (toml_text, toml_text, toml_text, any_bytes),
    "text": (text_lines, any_bytes),
    "safetensors": (safetensors, any_bytes),
    "png": (png, any_bytes, any_bytes),
    "onnx": (onnx_graph, onnx_graph, any_bytes),
    "bytes": (any_bytes,),
}
"""Of a file's form; a way that stands twice is taken twice as often."""
