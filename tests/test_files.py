"""Files are written whole or not at all, and read with their reasons: what every artifact and sidecar relies on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile

import pytest

from kdbench.errors import BadInput, Missing, RunFailed
from kdbench.runs.files import (
    RECORDED,
    atomic_folder,
    atomic_group,
    atomic_path,
    parse_json,
    put_in_place,
    read_json,
    read_text,
    read_toml,
    remove_leftovers,
    require_regular,
    seal_of,
    sha256,
    write_json,
    write_sealed,
    write_text,
)

MIB = 2**20
FAULTS = [
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR,
    errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG,
]  # fmt: skip


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def sparse(path, size):
    """A file of so many bytes that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def write_half(atomic, path, lose=False):
    """Fail in the middle; ``lose``: after the temporary file went elsewhere."""
    with atomic(path) as temporary:
        temporary.write_text("half")
        if lose:
            temporary.unlink()
        raise ZeroDivisionError


@pytest.fixture
def synced_first(monkeypatch):
    """Fails where something takes another's name before its bytes are on the disk; the list is of names taken."""
    synced, taken = set(), []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle):
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    def checked_replace(source, target):
        files = [os.path.join(at, name) for at, _, found in os.walk(source) for name in found] or [source]
        if not os.path.exists(target) or os.path.isfile(target):
            assert {os.stat(file).st_ino for file in files if os.path.isfile(file)} <= synced
        taken.append(os.path.basename(target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", checked_replace)
    return taken


class TestAtomicPath:
    def test_the_old_file_stays_until_the_new_one_is_whole(self, tmp_path, synced_first):
        path = tmp_path / "new" / "folders" / "table.json"
        with atomic_path(path) as temporary:
            assert temporary.parent == path.parent  # on the same file system, or it could not replace
            assert (temporary.name[:7], temporary.suffix) == (".table-", ".json")
            temporary.write_text("first")
        with atomic_path(path) as temporary:
            temporary.write_text("second")
            assert path.read_text() == "first"
        assert (path.read_text(), names(path.parent)) == ("second", ["table.json"])
        assert path.stat().st_mode & 0o777 == 0o644
        assert synced_first == ["table.json", "table.json"]

    def test_what_fails_leaves_the_old_file_and_nothing_else(self, tmp_path):
        path = tmp_path / "table.json"
        path.write_text("old")
        with pytest.raises(ZeroDivisionError):
            write_half(atomic_path, path)
        assert (path.read_text(), names(tmp_path)) == ("old", ["table.json"])

    def test_a_temporary_file_that_went_elsewhere_is_no_second_fault(self, tmp_path):
        with pytest.raises(ZeroDivisionError):
            write_half(atomic_path, tmp_path / "x", lose=True)

    @pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
    def test_a_place_that_cannot_be_written_is_one_line(self, tmp_path, number):
        path = tmp_path / "table.json"
        with pytest.raises(RunFailed) as caught, atomic_path(path):
            raise OSError(number, os.strerror(number))
        assert str(caught.value) == (
            f"'{path}' cannot be written ({os.strerror(number)}); what was written before is kept: "
            "make room or mend the folder, then run again"
        )
        assert names(tmp_path) == []

    @pytest.mark.parametrize("number", [errno.ENOENT, errno.EPIPE])
    def test_another_fault_of_the_system_keeps_its_traceback(self, tmp_path, number):
        with pytest.raises(OSError, match=os.strerror(number)), atomic_path(tmp_path / "x"):
            raise OSError(number, os.strerror(number))

    def test_a_folder_that_is_a_file_is_one_line(self, tmp_path):
        (tmp_path / "runs").write_text("")
        for atomic in (atomic_path, atomic_group, atomic_folder):
            with pytest.raises(RunFailed, match="table.json' cannot be written"), atomic(tmp_path / "runs/table.json"):
                pass

    def test_leftovers_of_killed_writers_are_removed_and_nothing_else(self, tmp_path):
        path = tmp_path / "state.pt"
        handle, left = tempfile.mkstemp(dir=tmp_path, prefix=".state-", suffix=".pt")  # as a killed process leaves it
        os.close(handle)
        others = [".state-abc.pt", ".state-12345678.json", ".other-12345678.pt", "state-12345678.pt", "state.pt"]
        for name in others:
            (tmp_path / name).write_text("")
        assert os.path.basename(left) in names(tmp_path)
        remove_leftovers(path)
        assert names(tmp_path) == sorted(others)

    def test_a_leftover_that_another_process_removes_first_is_no_fault(self, tmp_path, monkeypatch):
        (tmp_path / ".state-12345678.pt").write_text("")
        found = list(tmp_path.glob(".state-*"))
        found[0].unlink()
        monkeypatch.setattr(type(tmp_path), "glob", lambda self, pattern: iter(found))
        remove_leftovers(tmp_path / "state.pt")


class TestAtomicGroup:
    def test_all_come_together_and_the_named_one_last(self, tmp_path, synced_first):
        path = tmp_path / "new" / "export" / "model.xml"
        with atomic_group(path) as temporary:
            assert temporary.parent.parent == path.parent
            for name in ("model.xml", "model.bin", "zzz"):
                (temporary.parent / name).write_text(name)
            assert not path.exists()
            assert [name[:1] for name in names(path.parent)] == ["."]
        assert synced_first == ["model.bin", "zzz", "model.xml"]
        assert {name: (path.parent / name).read_text() for name in names(path.parent)} == {
            "model.bin": "model.bin", "model.xml": "model.xml", "zzz": "zzz",
        }  # fmt: skip
        with pytest.raises(ZeroDivisionError):
            write_half(atomic_group, path)
        assert path.read_text() == "model.xml"
        assert names(path.parent) == ["model.bin", "model.xml", "zzz"]


class TestAtomicFolder:
    def fill(self, path, name):
        with atomic_folder(path) as temporary:
            assert temporary.parent.parent == path.parent
            assert temporary.parent.name.startswith(".")  # no listing of results shows it
            assert names(temporary) == []
            (temporary / "deep").mkdir()
            (temporary / "deep" / name).write_text(name)

    def test_it_takes_the_place_of_all_that_was_there(self, tmp_path, synced_first):
        path = tmp_path / "new" / "parts" / "package"
        self.fill(path, "first")
        self.fill(path, "second")
        assert names(path.parent) == ["package"]
        assert names(path / "deep") == ["second"]
        assert synced_first == ["package", "before", "package"]

    def test_what_fails_leaves_the_old_folder(self, tmp_path):
        path = tmp_path / "package"
        self.fill(path, "first")
        with pytest.raises(RunFailed, match="package' cannot be written"), atomic_folder(path):
            raise OSError(errno.ENOSPC, "full")
        assert (names(path / "deep"), names(tmp_path)) == (["first"], ["package"])

    @pytest.mark.parametrize("there_before", [True, False])
    def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(
        self, tmp_path, monkeypatch, there_before
    ):
        path, replace = tmp_path / "package", os.replace
        if there_before:
            self.fill(path, "first")

        def refuse(source, target):
            if os.path.basename(source) == "made":
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            replace(source, target)

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(RunFailed, match="Permission denied"):
            self.fill(path, "second")
        assert names(tmp_path) == ["package"] * there_before
        if there_before:
            assert names(path / "deep") == ["first"]


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

    def test_put_in_place(self, tmp_path):
        (tmp_path / "a").write_text("new")
        (tmp_path / "a").chmod(0o600)
        (tmp_path / "b").write_text("old")
        put_in_place(tmp_path / "a", tmp_path / "b")
        assert (names(tmp_path), (tmp_path / "b").read_text()) == (["b"], "new")
        assert (tmp_path / "b").stat().st_mode & 0o777 == 0o644


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
