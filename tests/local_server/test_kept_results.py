"""Results that are kept for a while, in memory and in a folder."""

import os
import time
from pathlib import Path

import pytest

from local_server.background.kept_results import KeptResults

NAMES = [letter * 32 for letter in "abc"]


@pytest.mark.parametrize("in_folder", [False, True])
def test_results_are_kept_until_there_are_too_many(in_folder: bool, tmp_path: Path) -> None:
    kept = KeptResults(tmp_path / "jobs" if in_folder else None, 3600, max_bytes=8)
    for number, name in enumerate(NAMES):
        kept.put(name, b"1234")
        if in_folder:
            os.utime(tmp_path / "jobs" / name, (time.time() - 100 + number,) * 2)
    kept.drop_old()
    assert [kept.get(name) for name in NAMES] == [None, b"1234", b"1234"]
    assert kept.remove(NAMES[1])
    assert not kept.remove(NAMES[1])


@pytest.mark.parametrize("in_folder", [False, True])
def test_results_are_dropped_after_their_time(in_folder: bool, tmp_path: Path) -> None:
    kept = KeptResults(tmp_path if in_folder else None, 0)
    kept.put(NAMES[0], b"1")
    assert kept.get(NAMES[0]) is None
    assert not list(tmp_path.iterdir())


def test_nothing_but_results_is_read_or_removed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    kept = KeptResults(tmp_path, 0)
    kept.put(NAMES[0], b"1")
    for name in ("other", "link", "../other", "", "\0"):
        assert kept.get(name) is None
        assert not kept.remove(name)
    (tmp_path / NAMES[1]).symlink_to(tmp_path / "other")
    assert KeptResults(tmp_path, 3600).get(NAMES[1]) is None
    (tmp_path / NAMES[1]).unlink()
    assert kept.get(NAMES[0]) is None
    assert {path.name for path in tmp_path.iterdir()} == {"other", "link"}


def test_what_a_process_left_half_written_is_dropped(tmp_path: Path) -> None:
    (tmp_path / f"draft-{NAMES[0]}").write_bytes(b"1")
    KeptResults(tmp_path, 0).drop_old()
    assert not list(tmp_path.iterdir())


def test_only_the_owner_may_read_a_result(tmp_path: Path) -> None:
    KeptResults(tmp_path / "jobs", 3600).put(NAMES[0], b"1")
    assert (tmp_path / "jobs" / NAMES[0]).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_leaves_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    kept = KeptResults(tmp_path / "file", 3600)
    kept.put(NAMES[0], b"1")
    assert kept.get(NAMES[0]) == b"1"
