"""Build a pipeline that has already decoded a short test recording, doing as much work as possible concurrently.

The interpreter's lock lets only one thread import at a time, so work that does not need the lock runs during imports.
Files are read and their checksums computed while PyTorch is imported. Weights are loaded while the entry point
imports its own libraries. Knows no entry point. Leaves the settings of the process to `process_tuning`.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from handler import logs
from handler.audio.process_pool import shared_pool
from handler.errors import OutOfMemory
from handler.settings import Settings
from handler.startup.aligner_loader import add_aligner, find_local_aligner
from handler.startup.engine_loader import import_engine
from handler.startup.located_model import locate_model, stop_on_exit
from handler.startup.model_locator import find_local, find_model, mirror, revision
from handler.startup.self_test import self_test
from handler.startup.speaker_loader import load_speakers
from handler.timeline import Timeline
from handler.transcription.pipeline import Pipeline
from handler.whisper.checkpoint.conversion_cache import ConversionCache

if TYPE_CHECKING:  # `_load` imports PyTorch and measures the time
    import torch


def build(
    settings: Settings, timeline: Timeline | None = None, during_load: Callable[[], object] | None = None
) -> Pipeline:
    """Load the model that the settings name, warm it up, and return a pipeline that runs it.

    `during_load` is called in the calling thread once PyTorch is imported, while another thread loads the weights.
    `timeline` records the duration of each stage. If `timeline` is None, a new one begins at the start of the process.
    Raises ModelUnavailable, OutOfMemory, DeviceLost, SettingsError.
    """
    timeline = timeline or Timeline.of_process()
    shared_pool().start()
    torch_imported = threading.Event()
    with ThreadPoolExecutor(1, "loader") as loader:  # OpenMP's helper threads of the loader end with it
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
    """Load the engine, while other threads read the weights.

    Return the pipeline and the cache of converted weights, which is None if there is no cache. `torch_imported` is set
    once PyTorch and the engine's modules are imported.
    """
    model = settings.model_id, settings.cache_dir, settings.model_revision
    language, with_code = settings.model_language, settings.trust_remote_code
    stop = threading.Event()
    with ThreadPoolExecutor(2, "reader") as readers, stop_on_exit(stop):
        locate = partial(locate_model, settings=settings, timeline=timeline, stop=stop, readers=readers)
        local_folder = readers.submit(find_local, *model, language=language, with_code=with_code)
        local_model = readers.submit(locate, local_folder.result)
        with timeline.span("import_torch"):
            import torch  # noqa: F401
        with timeline.span("import_engine"):
            from handler.engine.device import choose_device

            load_engine = import_engine(local_folder.result())
        torch_imported.set()
        device = choose_device(settings.device)  # a wrong name raises an error before anything is downloaded
        align_folder = find_local_aligner(settings)  # so does that of an aligner
        with timeline.span("device_context"):
            _open_device(device)
        located = local_model.result()
        if located is None:
            located = locate(partial(find_model, *model, language=language, with_code=with_code))
            assert located is not None, "find_model returns a folder or raises"
            load_engine = import_engine(located.folder)
        stop.set()  # from here on the engine's loader reads the weights
        engine = load_engine(located.folder, settings, located.conversion, timeline)
        model_info = {"revision": revision(located.folder), "dtype": engine.dtype_name, "attention": engine.attention}
        if settings.align_model is not None:
            engine, align_folder = add_aligner(engine, align_folder, settings, timeline)
            model_info["align_revision"] = revision(align_folder)
    speaker_model = load_speakers(settings, timeline)
    return Pipeline(engine, settings, timeline, model_info, speaker_model), located.conversion


def _open_device(device: "torch.device") -> None:
    """Compute something on the device, which makes PyTorch set it up. Raises OutOfMemory, SettingsError."""
    import torch

    from handler.engine.device import try_device

    try:
        try_device(device)
    except torch.OutOfMemoryError as exc:
        raise OutOfMemory("the device has no memory left; expected one that nobody else fills") from exc


def _store_model(conversion: ConversionCache | None, cache_dir: Path) -> None:
    """Write the converted weights to the cache, and copy `cache_dir` to the network volume if there is one.

    The next process then has to neither download nor convert the model.
    """
    if conversion is not None:
        conversion.write()
    if (volume_mirror := mirror(cache_dir)) is not None:
        volume_mirror.sync(background=False)
