"""Log lines as a collector of logs reads them."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler import logs

LIBRARY = "tests.some_library"


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger("asr"), logging.getLogger(LIBRARY)]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert out == ""  # stdout is for transcripts
    return [json.loads(line) for line in err.splitlines()]


@pytest.mark.parametrize(("level", "written"), list(zip(logs.LEVELS, (3, 3, 2, 1), strict=True)))
def test_a_level_lets_through_what_is_at_least_as_grave(
    capsys: pytest.CaptureFixture[str], level: str, written: int
) -> None:
    logs.configure(level)
    logs.info("first")
    logs.warning("second")
    logs.error("third")
    events = [(line["event"], line["level"]) for line in lines(capsys)]
    assert events == [("first", "info"), ("second", "warning"), ("third", "error")][3 - written :]


def test_a_line_has_its_time_in_utc_and_the_fields_that_were_given(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    logs.info("ready", seconds=1.5, jobs=["a", "b"], folder=Path("/tmp/größe"), nothing=None)
    (line,) = lines(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "event": "ready",
        "seconds": 1.5,
        "jobs": ["a", "b"],
        "folder": "/tmp/größe",
        "nothing": None,
    }


def test_the_time_is_that_of_the_record() -> None:
    logs.configure("INFO")
    (handler,) = logging.getLogger("asr").handlers
    record = logging.LogRecord("asr", logging.INFO, __file__, 1, "then", None, None)
    record.created, record.msecs = 1_700_000_000.007, 7.9
    assert json.loads(handler.format(record))["time"] == "2023-11-14T22:13:20.007Z"


def test_an_error_has_a_traceback_only_if_there_was_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    try:
        json.loads("{")
    except ValueError as exc:
        logs.error("bad", exc, job="7")
    logs.error("worse", job="8")
    bad, worse = lines(capsys)
    assert bad["job"] == "7"
    assert "test_logs.py" in bad["traceback"]
    assert bad["traceback"].splitlines()[-1].startswith("json.decoder.JSONDecodeError: ")
    assert "traceback" not in worse


def test_a_percent_sign_or_a_brace_in_an_event_stays(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    logs.info("100 % of %s {x}", url="http://a/%20")
    (line,) = lines(capsys)
    assert (line["event"], line["url"]) == ("100 % of %s {x}", "http://a/%20")


def test_a_library_is_heard_from_warnings_upwards_whatever_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("DEBUG", LIBRARY)
    library = logging.getLogger(LIBRARY)
    library.info("chatter")
    library.warning("port %d is taken", 80)
    (line,) = lines(capsys)
    assert (line["event"], line["level"]) == ("port 80 is taken", "warning")


def test_configuring_twice_writes_each_line_once_and_the_last_level_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("ERROR", LIBRARY)
    logs.configure("INFO", LIBRARY)
    logs.info("once")
    logging.getLogger(LIBRARY).error("once as well")
    assert [line["event"] for line in lines(capsys)] == ["once", "once as well"]


UNPRINTABLE = "/\x9b31m \u202eover\u202c \u2066alone\u2069 \u2028 \u2029 \x7f \x85 \u200b \ud800 \U000e0041"


def test_a_line_holds_nothing_that_a_terminal_or_a_viewer_would_act_on(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO", LIBRARY)
    logs.info(UNPRINTABLE, path=UNPRINTABLE, nested=[{UNPRINTABLE: "日本 größe"}])
    logging.getLogger(LIBRARY).warning("of a library: %s", UNPRINTABLE)
    written = capsys.readouterr().err
    assert all(line.isprintable() for line in written.split("\n"))
    assert "日本 größe" in written
    ours, library = map(json.loads, written.splitlines())
    assert ours["event"] == ours["path"] == UNPRINTABLE
    assert ours["nested"] == [{UNPRINTABLE: "日本 größe"}]
    assert library["event"] == f"of a library: {UNPRINTABLE}"


def test_what_is_no_number_in_json_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    logs.configure("INFO")
    nan, infinity = float("nan"), float("inf")
    logs.info("odd", seconds=nan, more=[infinity, (-infinity, 1.5)], nested={"a": {"b": nan}})
    line = json.loads(capsys.readouterr().err, parse_constant=refuse)
    assert (line["seconds"], line["more"], line["nested"]) == (None, [None, [None, 1.5]], {"a": {"b": None}})
