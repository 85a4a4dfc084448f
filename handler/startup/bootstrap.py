"""From a cold process to a pipeline that has understood a sentence, with all possible work done concurrently.

The interpreter's lock lets one thread import at a time, so work that does not need the lock runs during imports:
files are read and their checksums computed while PyTorch is imported, and weights are laid out while the entry point
imports its own libraries. Knows no entry point, and changes no setting of the process: see `process_tuning`.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from handler import logs
from handler.errors import OutOfMemory
from handler.settings import Settings, SettingsError
from handler.startup.model_locator import BAKED, find_local, find_model, mirror, revision, weight_files
from handler.startup.self_test import self_test
from handler.timeline import Timeline
from handler.transcription.pipeline import Pipeline
from handler.whisper.checkpoint.conversion_cache import ConversionCache, read_ahead

if TYPE_CHECKING:  # the import of PyTorch is a step of its own
    import torch

CONVERTED_SUFFIXES = (".bin", ".pt")  # of weights that have to be converted before they are served


class LocatedModel(NamedTuple):
    """A model's folder, and the cache of its converted weights if they need conversion."""

    folder: Path
    conversion: ConversionCache | None


def build(
    settings: Settings, timeline: Timeline | None = None, during_load: Callable[[], object] | None = None
) -> Pipeline:
    """Return a pipeline with the model that the settings name, loaded and warm.

    `during_load` is called in this thread after PyTorch is imported, while the weights are loaded.
    Raises ModelUnavailable, OutOfMemory, SettingsError.
    """
    timeline = timeline or Timeline.of_process()
    torch_imported = threading.Event()
    with ThreadPoolExecutor(1, "loader") as loader:  # the helper threads that OpenMP gives to the loader end with it
        loading = loader.submit(_load, settings, timeline, torch_imported)
        loading.add_done_callback(lambda _: torch_imported.set())
        torch_imported.wait()
        if during_load is not None:
            during_load()
        pipeline, conversion = loading.result()
    try:
        with timeline.span("warm_up"):
            self_test(pipeline, settings)
        timeline.mark("ready")
        pipeline.mark_ready(timeline.total())
    except BaseException:
        pipeline.close()
        raise
    logs.info("ready", model=settings.model_id, **timeline.seconds())
    pipeline.run_in_background(partial(_store_model, conversion, settings.cache_dir))
    return pipeline


def _load(
    settings: Settings, timeline: Timeline, torch_imported: threading.Event
) -> tuple[Pipeline, ConversionCache | None]:
    """Load the engine, and meanwhile read files and load the VAD in other threads; set the event after the imports."""
    model = settings.model_id, settings.cache_dir, settings.model_revision
    stop = threading.Event()
    with ThreadPoolExecutor(2, "reader") as readers, stop_on_exit(stop):
        locate = partial(_locate_model, settings=settings, timeline=timeline, stop=stop, readers=readers)
        local_model = readers.submit(locate, partial(find_local, *model))
        with timeline.span("import_torch"):
            import torch  # noqa: F401
        with timeline.span("import_engine"):
            from handler.engine.device import choose_device
            from handler.whisper.loading import load_engine
        torch_imported.set()
        device = choose_device(settings.device)  # a wrong name ends the start before anything is downloaded
        with timeline.span("device_context"):
            _open_device(device)
        located = local_model.result() or locate(partial(find_model, *model))
        assert located is not None, "find_model returns a folder or raises"
        stop.set()  # from here on the engine's loader reads the weights
        vad = readers.submit(_load_vad, timeline)
        engine = load_engine(located.folder, settings, located.conversion, timeline)
        vad.result()
    model_info = {"revision": revision(located.folder), "dtype": engine.dtype_name, "attention": engine.attention}
    return Pipeline(engine, settings, timeline, model_info), located.conversion


@contextmanager
def stop_on_exit(stop: threading.Event) -> Iterator[None]:
    """Set `stop` at the end of a block, also if it raises, so that its background work ends."""
    try:
        yield
    finally:
        stop.set()


def _open_device(device: "torch.device") -> None:
    """Allocate something on the device, which sets it up. Raises OutOfMemory, SettingsError."""
    import torch

    try:
        torch.empty(1, device=device)
    except torch.OutOfMemoryError as exc:
        raise OutOfMemory("the device has no memory left; expected one that nobody else fills") from exc
    except RuntimeError as exc:
        expected = f"a device that can be used: {str(exc).splitlines()[0]}"
        raise SettingsError("DEVICE", str(device), expected) from exc


def _locate_model(
    search: Callable[[], Path | None],
    settings: Settings,
    timeline: Timeline,
    stop: threading.Event,
    readers: ThreadPoolExecutor,
) -> LocatedModel | None:
    """Find the model's folder and bring its weights into the page cache; None if `search` finds none.

    A cached conversion is read before the function returns, any other weights by `readers` afterwards.
    """
    with timeline.span("find_model"):
        folder = search()
    if folder is None:
        return None
    files = weight_files(folder)
    conversion = _read_conversion(files, settings, timeline, stop)
    if conversion is None or not conversion.has_any():
        readers.submit(_read_ahead, files, timeline, stop)
    return LocatedModel(folder, conversion)


def _read_conversion(
    files: Sequence[Path], settings: Settings, timeline: Timeline, stop: threading.Event
) -> ConversionCache | None:
    """Return the verified cache of converted weights; None if they need no conversion or there is no cache folder."""
    if not files or files[0].suffix not in CONVERTED_SUFFIXES:
        return None  # the cache folder is not looked at: it may not even be reachable
    if not settings.cache_dir.is_dir() and settings.cache_dir == Settings().cache_dir:
        return None
    dtype = None if settings.dtype == "auto" else settings.dtype
    conversion = None
    with timeline.span("conversion_read"), suppress(OSError):  # of the checkpoint: its loader reports what is wrong
        conversion = ConversionCache((BAKED, settings.cache_dir), files[0], stop)
        conversion.verify(dtype)
    return conversion


def _read_ahead(files: Sequence[Path], timeline: Timeline, stop: threading.Event) -> None:
    """Bring files into the page cache, until `stop` is set."""
    with timeline.span("read_ahead"), suppress(OSError):  # the loader of a file reports what is wrong with it
        for file in files:
            read_ahead(file, stop)


def _load_vad(timeline: Timeline) -> None:
    """Import and load the voice activity detector once, so that the first request does not wait for it."""
    from handler.engine.cpu_tuning import use_one_thread

    use_one_thread()
    with timeline.span("load_vad"):
        from handler.audio.vad import VoiceActivity

        VoiceActivity()


def _store_model(conversion: ConversionCache | None, cache_dir: Path) -> None:
    """Store what this process downloaded and converted for the next one, also on the network volume if there is one."""
    if conversion is not None:
        conversion.write()
    if (volume_mirror := mirror(cache_dir)) is not None:
        volume_mirror.sync(background=False)
