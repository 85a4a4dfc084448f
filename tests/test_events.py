"""Log lines and error codes."""

import io
import json
import logging

import pytest

from handler import errors, logs
from tests.support.tables import table


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
    "invalid_request",
    "unauthorized",
    "download_failed",
    "download_blocked",
    "download_refused",
    "too_large",
    "too_long",
    "unsupported_media",
    "no_audio_stream",
    "corrupt_media",
    "model_unavailable",
    "overloaded",
    "deadline_exceeded",
    "cancelled",
    "out_of_memory",
    "internal",
    "device_lost",
    "decoding_lost",
    "upload_failed",
    "upload_refused",
    "model_not_found",
    "job_not_found",
    "session_not_found",
    "storage_full",
}
RETRYABLE = {
    "download_failed",
    "model_unavailable",
    "overloaded",
    "deadline_exceeded",
    "out_of_memory",
    "device_lost",
    "decoding_lost",
    "upload_failed",
    "storage_full",
}


def test_the_codes_are_those_of_the_contract() -> None:
    kinds = errors.all_kinds()
    assert {kind.code for kind in kinds} == CODES
    assert {kind.code for kind in kinds if kind.retryable} == RETRYABLE


def test_the_reference_lists_every_code_with_its_status_and_whether_it_is_retryable() -> None:
    from local_server.errors import STATUS

    expected = {kind.code: [str(STATUS[kind.code]), "yes" if kind.retryable else "no"] for kind in errors.all_kinds()}
    assert {code: cells[:2] for code, cells in table("docs/reference/errors.md", "code").items()} == expected


def test_every_code_has_its_http_status() -> None:
    from local_server.errors import STATUS

    assert set(STATUS) == CODES


def test_an_error_begins_with_its_code() -> None:
    assert str(errors.TooLarge("expected less")) == "too_large: expected less"
