"""Log events to stderr, each as one line of JSON that a terminal can show.

Does not know what an event means. Callers pass only values without credentials.
"""

import json
import logging
import math
import sys
import time

_LOGGER = logging.getLogger("asr")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _escape(json.dumps(_finite(line), ensure_ascii=False, default=str))


def _finite(value: object) -> object:
    """Replace NaN and infinity, for which JSON has no numbers, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _escape(line: str) -> str:
    """Escape what cannot be printed, such as control characters, line separators and overrides of text direction."""
    if line.isprintable():
        return line
    return "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in line)


def configure(level: str, *libraries: str) -> None:
    """Send log events to stderr as JSON lines.

    `level`, one of LEVELS, is the lowest level at which events of this package are logged. Events of the loggers named
    in `libraries` are logged from WARNING upwards.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine())
    for name, threshold in ((_LOGGER.name, level), *((library, "WARNING") for library in libraries)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(threshold)
        logger.propagate = False


def info(event: str, **fields: object) -> None:
    """Log an event of normal operation."""
    _LOGGER.info(event, extra={"fields": fields})


def warning(event: str, **fields: object) -> None:
    """Log an event that the operator may want to act on."""
    _LOGGER.warning(event, extra={"fields": fields})


def error(event: str, exc: BaseException | None = None, **fields: object) -> None:
    """Log a fault of this program, with the traceback of `exc` unless `exc` is None."""
    _LOGGER.error(event, extra={"fields": fields}, exc_info=exc)
