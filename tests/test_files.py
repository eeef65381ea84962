"""Texts, JSON and TOML: what is written by value, and what is refused when it is read, with the reason."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from kdbench.errors import BadInput, Missing
from kdbench.runs.files import (
    RECORDED,
    parse_json,
    read_json,
    read_text,
    read_toml,
    require_regular,
    seal_of,
    sha256,
    write_json,
    write_sealed,
    write_text,
)

MIB = 2**20


def sparse(path, size):
    """A file of so many bytes that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_texts_are_utf8_with_the_same_line_ends_everywhere(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "größer\n\udcff\n")
    assert path.read_bytes() == "größer\n\\udcff\n".encode()


def test_json_is_written_for_people_and_for_every_parser(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": [1, 0.5], "b": "ö"})
    assert path.read_text() == '{\n "a": [\n  1,\n  0.5\n ],\n "b": "\\u00f6"\n}\n'
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(path, {"a": value})
        with pytest.raises(ValueError, match="not JSON compliant"):
            seal_of({"a": value})
    assert json.loads(path.read_text())["a"] == [1, 0.5]


def test_the_seal_is_the_hash_of_the_sorted_fields_without_white_space(tmp_path):
    """By hand, so that a file sealed today fits for ever."""
    expected = "sha256-of-the-other-fields:" + hashlib.sha256(b'{"a":[1,2],"b":{"c":"d","e":"f"}}').hexdigest()
    fields = {"b": {"e": "f", "c": "d"}, "a": [1, 2]}
    assert seal_of(fields) == expected
    path = tmp_path / "x.json"
    write_sealed(path, {**fields, "seal": "one of before"})
    assert json.loads(path.read_text()) == {**fields, "seal": expected}


class TestReadJson:
    def message(self, path, kind=BadInput, **more):
        with pytest.raises(kind) as caught:
            read_json(path, "kdbench train", **more)
        return str(caught.value)

    def test_each_fault_says_what_to_do(self, tmp_path):
        path = tmp_path / "x.json"
        again = "make it again with `kdbench train`"
        assert self.message(path, Missing) == f"'{path}' does not exist: make it with `kdbench train`"
        for text, said in (
            (
                "{",
                "is not readable as JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
            ),
            ("[]", "holds a JSON list, expected an object"),
            ("{}", "has schema_version None, this kdbench reads 1"),
            ('{"schema_version": 2}', "has schema_version 2, this kdbench reads 1"),
        ):
            path.write_text(text)
            assert self.message(path) == f"'{path}' {said}: {again}"
        path.write_bytes(b'{"schema_version": 1, "\xff": 1}')
        assert "is not readable as JSON ('utf-8' codec can't decode byte 0xff" in self.message(path)
        assert self.message(tmp_path) == f"'{tmp_path}' is not a regular file, expected a plain file: {again}"

    def test_sizes(self, tmp_path):
        path = sparse(tmp_path / "x.json", 16 * MIB + 1)
        assert "has 16 MiB, expected at most 16: make it again with `kdbench train`" in self.message(path)
        assert "expected at most 2:" in self.message(path, most=2 * MIB)
        assert "is not readable as JSON" in self.message(sparse(path, 16 * MIB))
        assert "is not readable as JSON" in self.message(sparse(path, 16 * MIB + 1), most=17 * MIB)

    @pytest.mark.parametrize("seal", ["seal", "sael"])
    def test_a_seal_that_does_not_fit_is_found_under_another_name_too(self, tmp_path, seal):
        path = tmp_path / "x.json"
        fields = {"schema_version": 1, "a": 1}
        write_json(path, {**fields, seal: seal_of(fields)})
        if seal == "seal":
            assert read_json(path, "x") == {**fields, "seal": seal_of(fields)}
        else:
            assert "(its seal does not fit)" in self.message(path)
        write_json(path, {**fields, "seal": 7})
        assert "(its seal does not fit)" in self.message(path)
        write_json(path, {**fields, "note": "sha256-of", "seals": 7})  # neither is one
        assert read_json(path, "x")["seals"] == 7


def test_a_recording_may_have_a_gibibyte(tmp_path):
    require_regular(sparse(tmp_path / "x.json", 1024 * MIB), "mend it", RECORDED)
    with pytest.raises(BadInput, match="has 1024 MiB, expected at most 1024: mend it"):
        require_regular(sparse(tmp_path / "x.json", 1024 * MIB + 1), "mend it", RECORDED)


class TestOtherReaders:
    def test_texts_with_and_without_a_mark_before_them(self, tmp_path):
        path = tmp_path / "x.toml"
        for before in (b"", b"\xef\xbb\xbf"):
            path.write_bytes(before + "name = 'größer'".encode())
            assert read_text(path, "mend it") == "name = 'größer'"
            assert read_toml(path, "recipe") == {"name": "größer"}
        with pytest.raises(BadInput, match="x.toml' has 0 MiB, expected at most 0: mend it"):
            read_text(path, "mend it", most=19)
        assert read_text(path, "mend it", most=20)
        with pytest.raises(BadInput, match="has 16 MiB, expected at most 16: mend it"):
            read_text(sparse(path, 16 * MIB + 1), "mend it")

    def test_toml_says_what_is_wrong(self, tmp_path):
        path = tmp_path / "x.toml"
        for text, reason in (
            ("a = ", "(Invalid value (at end of document)): mend the file"),
            ("a = " + "[" * 100_000, "(it is nested too deeply): mend the file"),
        ):
            path.write_text(text)
            with pytest.raises(BadInput) as caught:
                read_toml(path, "recipe")
            assert str(caught.value) == f"recipe '{path}' cannot be read as TOML {reason}"
        with pytest.raises(BadInput) as caught:
            read_toml(tmp_path, "recipe")
        assert str(caught.value) == f"'{tmp_path}' is not a regular file, expected a plain file: name a TOML file"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
    def test_what_is_no_regular_file(self, tmp_path):
        os.mkfifo(tmp_path / "x.json")
        with pytest.raises(BadInput) as caught:
            require_regular(tmp_path / "x.json", "mend it")
        assert str(caught.value) == f"'{tmp_path}/x.json' is not a regular file, expected a .json file: mend it"
        with pytest.raises(BadInput) as caught:
            require_regular(tmp_path / "none", "mend it")
        assert str(caught.value) == f"'{tmp_path}/none' cannot be read (No such file or directory): mend it"
        with pytest.raises(BadInput, match="has 2 MiB, expected at most 1: mend it"):
            require_regular(sparse(tmp_path / "y", 2 * MIB), "mend it", MIB)
        require_regular(sparse(tmp_path / "y", 16 * MIB), "mend it")
        with pytest.raises(BadInput, match="expected at most 16"):
            require_regular(sparse(tmp_path / "y", 16 * MIB + 1), "mend it")

    def test_a_hash_is_of_the_bytes(self, tmp_path):
        (tmp_path / "x").write_bytes(b"abc")
        assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        for size, said in ((None, "cannot be read"), (16 * 2**30 + 1, "has 16384 MiB, expected at most 16384")):
            path = tmp_path / "y" if size is None else sparse(tmp_path / "y", size)
            with pytest.raises(BadInput, match=f"{said}.*: put the file back"):
                sha256(path)


class TestParseJson:
    @pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0, -1])
    def test_whole_numbers_of_64_bits(self, number):
        assert parse_json(str(number)) == number

    @pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
    def test_and_no_others(self, number):
        with pytest.raises(ValueError) as caught:
            parse_json(f"[{number}]")
        assert str(caught.value) == f"got the number {str(number)[:30]}, expected 64 bits at most"

    def test_numbers_that_are_not_finite(self):
        for text in ("1e999", "-1e999", "NaN", "Infinity", "-Infinity"):
            with pytest.raises(ValueError, match="expected a finite"):
                parse_json(text)
        with pytest.raises(ValueError) as caught:
            parse_json("1" * 40 + ".0e999")
        assert str(caught.value) == f"got the number {'1' * 30}, expected a finite one"
        with pytest.raises(ValueError) as caught:
            parse_json("NaN")
        assert str(caught.value) == "got NaN, expected a finite number"
        found = parse_json("[1e999, -Infinity, NaN, 0.25]", finite=False)
        assert found[:2] == [float("inf"), -float("inf")]
        assert found[2] != found[2]
        assert found[3] == 0.25

    @pytest.mark.parametrize(("opening", "inner", "closing"), [("[", "1", "]"), ('{"a":', "1", "}")])
    def test_nesting(self, opening, inner, closing):
        def nested(levels):
            return opening * levels + inner + closing * levels

        assert parse_json(nested(64))
        with pytest.raises(ValueError) as caught:
            parse_json(nested(65))
        assert str(caught.value) == "it is nested more than 64 levels deep"
        with pytest.raises(ValueError) as caught:
            parse_json(nested(100_000))
        assert str(caught.value) == "it is nested too deeply"
