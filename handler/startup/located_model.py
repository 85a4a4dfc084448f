"""Find a model's folder, and read its weights into memory while PyTorch is imported. Knows no engine."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from handler.settings import Settings
from handler.startup.engine_loader import is_whisper
from handler.startup.model_locator import BAKED, weight_files
from handler.timeline import Timeline
from handler.whisper.checkpoint.conversion_cache import ConversionCache, read_ahead

CONVERTED_SUFFIXES = (".bin", ".pt")  # of weight files that must be converted before use


class LocatedModel(NamedTuple):
    """A model's folder, and the cache of the model's converted weights. `conversion` is None if there is no cache."""

    folder: Path
    conversion: ConversionCache | None


@contextmanager
def stop_on_exit(stop: threading.Event) -> Iterator[None]:
    """Set `stop` when the block ends, even if the block raises, so that background work that watches `stop` ends."""
    try:
        yield
    finally:
        stop.set()


def locate_model(
    search: Callable[[], Path | None],
    settings: Settings,
    timeline: Timeline,
    stop: threading.Event,
    readers: ThreadPoolExecutor,
) -> LocatedModel | None:
    """Find the model's folder and read its weights into the page cache. Return None if `search` finds no folder.

    If the cache has converted weights, they are read and verified before the function returns. Otherwise a thread of
    `readers` reads the original files in the background.
    """
    with timeline.span("find_model"):
        folder = search()
    if folder is None:
        return None
    files = weight_files(folder)
    conversion = _read_conversion(files, settings, timeline, stop) if is_whisper(folder) else None
    if conversion is None or not conversion.has_any():
        readers.submit(_read_ahead, files, timeline, stop)
    return LocatedModel(folder, conversion)


def _read_conversion(
    files: Sequence[Path], settings: Settings, timeline: Timeline, stop: threading.Event
) -> ConversionCache | None:
    """Verify the cache of converted weights and return it.

    Return None if the weights need no conversion or cannot be read. Also return None if the cache folder is the default
    one and does not exist.
    """
    if not files or files[0].suffix not in CONVERTED_SUFFIXES:
        return None  # the cache folder is not looked at: it may not even be reachable
    if not settings.cache_dir.is_dir() and settings.cache_dir == Settings().cache_dir:
        return None
    dtype = None if settings.dtype == "auto" else settings.dtype
    conversion = None
    with timeline.span("conversion_read"), suppress(OSError):  # if the checkpoint is unreadable, its loader reports why
        conversion = ConversionCache((BAKED, settings.cache_dir), files[0], stop)
        conversion.verify(dtype)
    return conversion


def _read_ahead(files: Sequence[Path], timeline: Timeline, stop: threading.Event) -> None:
    """Read files into the page cache until all are read or `stop` is set."""
    with timeline.span("read_ahead"), suppress(OSError):  # if a file is unreadable, its loader reports why
        for file in files:
            read_ahead(file, stop)
