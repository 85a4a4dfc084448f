"""What `asr doctor` says of the temporary folder, in which files lie while they are transcribed."""

import tempfile
from pathlib import Path

import pytest

from handler.cli import doctor
from tests.conftest import settings


def examine(**changes: object) -> doctor.Finding:
    findings = doctor.examine(settings(**changes))
    return next(finding for finding in findings if finding.name == "temporary folder")


def test_a_folder_with_room_for_a_file_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    finding = examine(max_bytes=1)
    assert finding.problem == ""
    assert finding.value.startswith(f"{tmp_path}: ")
    assert finding.value.endswith(" GiB free")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_room_for_one_file_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert "less than one file of MAX_BYTES" in examine(max_bytes=10**18).problem


def test_a_folder_that_takes_no_file_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert "no file can be written: No such file or directory" in examine().problem
