"""One line of JSON an event on stderr. Knows no event's meaning, and never sees a credential: callers pass public values."""

import json
import logging
import sys
import time

_LOGGER = logging.getLogger("asr")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": stamp, "level": record.levelname.lower(), "event": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str, *others: str) -> None:
    """Send events to stderr as JSON lines, from `level` (one of LEVELS) upwards: this package's, and those of `others` from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine())
    for logger in (_LOGGER, *map(logging.getLogger, others)):
        logger.handlers = [handler]
        logger.setLevel(level if logger is _LOGGER else "WARNING")
        logger.propagate = False


def info(event: str, **fields: object) -> None:
    """Something happened as it should."""
    _LOGGER.info(event, extra={"fields": fields})


def warning(event: str, **fields: object) -> None:
    """Something a person may want to change."""
    _LOGGER.warning(event, extra={"fields": fields})


def error(event: str, exc: BaseException | None = None, **fields: object) -> None:
    """A fault of ours, with its traceback where there is one."""
    _LOGGER.error(event, extra={"fields": fields}, exc_info=exc)
