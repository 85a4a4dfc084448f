"""Log lines and errors."""

import io
import json
import logging

import pytest

from handler import errors, logs


def test_an_event_is_one_line_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure("INFO")
    try:
        logs.info("something", path="/a\nb", count=3)
        logs.error("broken", ValueError("no"))
    finally:
        logging.getLogger("asr").handlers = []
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["level"], first["path"], first["count"]) == ("something", "info", "/a\nb", 3)
    assert "ValueError: no" in second["traceback"]


def test_a_line_below_the_level_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure("WARNING")
    logs.info("quiet")
    logging.getLogger("asr").handlers = []
    assert stream.getvalue() == ""


CODES = {
    "invalid_request", "unauthorized", "download_failed", "download_blocked", "too_large", "too_long", "unsupported_media",
    "no_audio_stream", "corrupt_media", "model_unavailable", "overloaded", "deadline_exceeded", "cancelled", "out_of_memory", "internal",
    "device_lost", "upload_failed", "model_not_found",
}  # fmt: skip
RETRYABLE = {"download_failed", "model_unavailable", "overloaded", "deadline_exceeded", "out_of_memory", "device_lost", "upload_failed"}


def test_the_codes_are_those_of_the_contract_and_stand_in_the_readme() -> None:
    found = errors.all_kinds()
    assert {kind.code for kind in found} == CODES
    assert {kind.code for kind in found if kind.retryable} == RETRYABLE
    from tests.conftest import ROOT

    readme = (ROOT / "README.md").read_text()
    assert [code for code in sorted(CODES) if f"| `{code}` |" not in readme] == []


def test_every_code_has_its_http_status() -> None:
    from local_server.errors import STATUS

    assert set(STATUS) == CODES


def test_an_error_begins_with_its_code() -> None:
    assert str(errors.TooLarge("expected less")) == "too_large: expected less"
