"""From a cold process to a pipeline that has understood a sentence: what can run at once does. Knows no door.

The interpreter's lock lets one thread import at a time, so what needs no lock lies beside the imports: files are read and
their sums taken while PyTorch is imported, and weights are laid out while the doors import what they need.
"""

import atexit
import gc
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from handler import logs
from handler.errors import OutOfMemory
from handler.settings import Settings, SettingsError
from handler.startup.model_locator import BAKED, find_model, mirror, find_local, revision, weights_in
from handler.startup.self_test import self_test
from handler.timeline import Timeline
from handler.transcription.pipeline import Pipeline
from handler.whisper.checkpoint.conversion_cache import ConversionCache, read_ahead

TURN_S = 0.0005  # how long a thread may keep the interpreter from the others while the process starts
CONVERTED = (".bin", ".pt")  # endings of weights that are not as they are served


def build(settings: Settings, timeline: Timeline | None = None, beside: Callable[[], object] | None = None) -> Pipeline:
    """The house with the model that the settings name, loaded and warm. Raises ModelUnavailable, OutOfMemory, SettingsError.

    `beside` is run in this thread once PyTorch is imported, while the weights are loaded.
    """
    timeline = timeline or Timeline.of_process()
    imported = threading.Event()
    with fast_imports(), ThreadPoolExecutor(1, "loader") as loader:  # the helpers that OpenMP gives it leave with it
        building = loader.submit(_build, settings, timeline, imported)
        building.add_done_callback(lambda _: imported.set())
        imported.wait()
        if beside is not None:
            beside()
        pipeline, kept = building.result()
    try:
        with timeline.span("warm_up"):
            self_test(pipeline, settings)
        timeline.mark("ready")
        pipeline.ready(timeline.total())
    except BaseException:
        pipeline.close()
        raise
    atexit.register(gc.unfreeze)  # or libraries would report at the end what was never collected
    gc.freeze()  # what is loaded stays: looking through all of it for garbage would stop every thread for a fifth of a second
    logs.info("ready", model=settings.model_id, **timeline.seconds())
    pipeline.behind(partial(_keep, kept, settings.cache_dir))
    return pipeline


def _keep(kept: ConversionCache | None, cache_dir: Path) -> None:
    """Keep for the next process what this one has downloaded and converted; also on the network volume, where there is one."""
    if kept is not None:
        kept.write()
    if (mirrored := mirror(cache_dir)) is not None:
        mirrored.sync(background=False)


@contextmanager
def fast_imports() -> Iterator[None]:
    """While much is imported and made, no garbage is looked for, and threads take short turns."""
    turn, collects = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(TURN_S)
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(turn)
        if collects:
            gc.enable()


def _build(settings: Settings, timeline: Timeline, imported: threading.Event) -> tuple[Pipeline, ConversionCache | None]:
    where = settings.model_id, settings.cache_dir, settings.model_revision
    over = threading.Event()
    with ThreadPoolExecutor(2, "ahead") as ahead, stop_on_exit(over):
        find = partial(_find, settings=settings, timeline=timeline, over=over, ahead=ahead)
        finding = ahead.submit(find, partial(find_local, *where))
        with timeline.span("import_torch"):
            import torch
        with timeline.span("import_engine"):
            from handler.engine.cpu_tuning import use_one_thread
            from handler.engine.device import choose_device
            from handler.whisper.loading import load_engine
        imported.set()
        device = choose_device(settings.device)  # a bad one ends the start before anything is downloaded
        with timeline.span("device_context"):
            try:
                torch.empty(1, device=device)
            except torch.OutOfMemoryError as exc:
                raise OutOfMemory("the device has no memory left; expected one that nobody else fills") from exc
            except RuntimeError as exc:
                raise SettingsError("DEVICE", str(device), f"a device that can be used: {str(exc).splitlines()[0]}") from exc
        found = finding.result() or find(partial(find_model, *where))
        assert found is not None
        folder, kept = found
        over.set()  # from here on whoever loads the weights reads them
        hearing = ahead.submit(_load_vad, use_one_thread, timeline)
        engine = load_engine(folder, settings, kept, timeline)
        hearing.result()
    about = {"revision": revision(folder), "dtype": engine.dtype_name, "attention": engine.attention}
    return Pipeline(engine, settings, timeline, about), kept


@contextmanager
def stop_on_exit(over: threading.Event) -> Iterator[None]:
    """What still runs beside a block that has ended is told to end."""
    try:
        yield
    finally:
        over.set()


def _find(
    search: Callable[[], Path | None], settings: Settings, timeline: Timeline, over: threading.Event, ahead: ThreadPoolExecutor
) -> tuple[Path, ConversionCache | None] | None:
    """The folder of the model and what is kept of it, read once; None where `search` finds none. Other weights are read on, behind this."""
    with timeline.span("find_model"):
        folder = search()
    if folder is None:
        return None
    files = weights_in(folder)
    kept = None
    if files and files[0].suffix in CONVERTED and (settings.cache_dir.is_dir() or settings.cache_dir != Settings().cache_dir):
        with timeline.span("conversion_read"), suppress(OSError):  # of the checkpoint: whoever loads it says what is wrong
            kept = ConversionCache((BAKED, settings.cache_dir), files[0], over)
            kept.check(None if settings.dtype == "auto" else settings.dtype)
    if kept is None or not kept.any():
        ahead.submit(_read_ahead, files, timeline, over)
    return folder, kept


def _read_ahead(files: Sequence[Path], timeline: Timeline, over: threading.Event) -> None:
    with timeline.span("read_ahead"), suppress(OSError):  # whoever needs a file says what is wrong with it
        for file in files:
            read_ahead(file, over)


def _load_vad(use_one_thread: Callable[[], None], timeline: Timeline) -> None:
    use_one_thread()
    with timeline.span("load_vad"):
        from handler.audio.vad import VoiceActivity

        VoiceActivity()
