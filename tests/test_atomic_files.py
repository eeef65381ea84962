"""Files and folders are written whole or not at all, whatever happens between: what every artifact relies on."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest

from kdbench.errors import RunFailed
from kdbench.runs.beside import remove_leftovers
from kdbench.runs.files import atomic_folder, atomic_group, atomic_path, put_in_place

FAULTS = [
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR,
    errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG,
]  # fmt: skip


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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
            assert temporary.parent.parent == path.parent  # on the same file system, or it could not replace
            assert temporary.parent.name.startswith(".table.json.kdbench-")
            assert temporary.name == "table.json"
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
        monkeypatch.setattr(type(tmp_path), "glob", lambda self, pattern: iter(() if ".kdbench-" in pattern else found))
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


def test_put_in_place(tmp_path):
    (tmp_path / "a").write_text("new")
    (tmp_path / "a").chmod(0o600)
    (tmp_path / "b").write_text("old")
    put_in_place(tmp_path / "a", tmp_path / "b")
    assert (names(tmp_path), (tmp_path / "b").read_text()) == (["b"], "new")
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o644
