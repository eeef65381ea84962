"""Where a package may be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdbench.errors import BadInput
from kdbench.package.write import KIND, MANIFEST, check_destination
from kdbench.runs.files import write_json


@pytest.mark.parametrize("given", [".", "{here}", "..", "../here/"])
def test_the_folder_that_one_is_in_is_refused_before_anything_is_written(tmp_path, monkeypatch, given):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    folder = Path(given.format(here=here))
    write_json(tmp_path / MANIFEST, {"kind": KIND})  # ".." is a package, which --overwrite would replace
    with pytest.raises(BadInput) as caught:
        check_destination(folder, overwrite=True)
    assert str(caught.value) == f"--output: '{folder}' cannot be replaced as a whole: name a new folder inside it"
    check_destination(Path("new"), overwrite=False)
    check_destination(tmp_path / "beside", overwrite=False)


def test_a_mounted_folder_is_refused(tmp_path, monkeypatch):
    check_destination(tmp_path, overwrite=False)  # empty
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(BadInput, match="cannot be replaced as a whole: name a new folder inside it"):
        check_destination(tmp_path, overwrite=False)
