"""Folders that processes keep for each other appear whole, and those that nobody uses are removed."""

import os
from pathlib import Path

import pytest

from handler.engine.kept_folders import new_folder


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint" / "float32"
    with new_folder(target) as draft:
        (draft / "weights").write_text("all")
        assert not target.exists()
    assert (target / "weights").read_text() == "all"
    assert [path.name for path in target.parent.iterdir()] == ["float32"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint" / "float32"

    def fail() -> None:
        with new_folder(target) as draft:
            (draft / "weights").write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert list(target.parent.iterdir()) == []


def test_what_nobody_has_read_for_long_is_removed(tmp_path: Path) -> None:
    own, other, old = (tmp_path / name for name in ("own", "other", "old"))
    stale = own / ".draft-x"
    for folder in (stale, other, old):
        folder.mkdir(parents=True)
    for folder in (stale, old):
        os.utime(folder, (0, 0))
    with new_folder(own / "int8"):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["int8", "other", "own"]
