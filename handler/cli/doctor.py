"""`asr doctor`: examine this machine and its settings, and find what prevents a start. Knows no entry point."""

import mmap
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from handler import __version__
from handler.errors import AsrError
from handler.schema.capabilities import Capabilities
from handler.settings import GIB, Settings, SettingsError
from handler.startup.model_locator import find_local, weight_files
from handler.timeline import Timeline
from handler.transcription.pipeline import Pipeline

MEMORY_FACTOR = 1.2  # memory that loading takes, relative to the size of the weight files
MAX_FILE_NAMES = 3  # printed; an ellipsis stands for the remaining names
Build = Callable[[Settings, Timeline], Pipeline]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact about the machine or the settings. `problem` says what is wrong, or is empty if nothing is."""

    name: str
    value: str
    problem: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield the findings that can be made without loading the model."""
    yield Finding("version", f"{__version__}, Python {platform.python_version()}")
    yield from _examine_device(settings)
    weights_bytes = 0
    for finding, finding_bytes in _examine_model(settings):
        weights_bytes = max(weights_bytes, finding_bytes)
        yield finding
    yield from _examine_memory(settings, weights_bytes)
    yield _examine_temporary_folder(settings)


def try_start(settings: Settings, timeline: Timeline, build: Build) -> Iterator[Finding]:
    """Load the model with `build`, as an entry point does.

    Yield the batch size and the duration of each stage of the start. If the start fails, yield the error instead.
    """
    try:
        pipeline = build(settings, timeline)
    except Exception as exc:  # an entry point would fail with the same error
        problem = str(exc) if isinstance(exc, (AsrError, SettingsError)) else repr(exc)
        yield Finding("start", "failed", problem)
        return
    pipeline.close()
    yield Finding("batch", f"{pipeline.max_batch_size} windows")
    yield Finding("can do", ", ".join(_abilities(pipeline.capabilities)))
    for span in timeline.spans():
        offset = f", from {span.at:.3f} s on" if span.at else ""
        yield Finding(f"start: {span.name}", f"{span.seconds:.3f} s{offset}")


def _abilities(capabilities: Capabilities) -> Iterator[str]:
    """Yield what a model can do, in words."""
    codes = capabilities.languages
    yield f"{len(codes)} languages" if len(codes) > 1 else next(iter(codes), "languages unknown")
    for name in ("tells_language", "translates", "prompt", "hotwords", "word_times", "sampling", "beam_search"):
        if getattr(capabilities, name):
            yield name.replace("_", " ")
    yield f"windows of up to {capabilities.longest_window_s:g} s"


def _examine_device(settings: Settings) -> Iterator[Finding]:
    from handler.engine.device import choose_attention, choose_device, choose_dtype, device_name

    yield _examine_driver()
    try:
        device = choose_device(settings.device)
    except SettingsError as exc:
        yield Finding("device", settings.device, str(exc))
        return
    is_slow = device.type == "cpu" and settings.device == "auto"
    problem = "no GPU: audio is transcribed by the processor" if is_slow else ""
    yield Finding("device", device_name(device), problem)
    dtype = choose_dtype(settings.dtype, device)
    yield Finding("dtype", str(dtype).removeprefix("torch."))
    attention, reason = choose_attention(settings.flash_attention_2, device, dtype)
    is_refused = settings.flash_attention_2 and attention != "flash_attention_2"
    problem = "FLASH_ATTENTION_2=1 cannot be had here" if is_refused else ""
    yield Finding("attention", f"{attention}: {reason}", problem)


def _examine_driver() -> Finding:
    import torch

    from handler.engine.device import why_no_gpu
    from handler.engine.nvidia import driver_version, has_gpu

    if not has_gpu():
        return Finding("NVIDIA driver", "none")
    problem = "" if torch.cuda.is_available() else why_no_gpu()
    return Finding("NVIDIA driver", driver_version() or "version unknown", problem)


def _examine_model(settings: Settings) -> Iterator[tuple[Finding, int]]:
    """Yield findings on the model, each with the total bytes of the weight files, or 0 if the size is unknown."""
    try:
        folder = find_local(
            settings.model_id,
            settings.cache_dir,
            settings.model_revision,
            language=settings.model_language,
            with_code=settings.trust_remote_code,
        )
    except AsrError as exc:
        yield Finding("model", settings.model_id, exc.message), 0
        return
    if folder is None:
        yield Finding("model", f"{settings.model_id}: not on this machine, to be downloaded from the Hub"), 0
        return
    files = weight_files(folder)
    weights_bytes = sum(file.stat().st_size for file in files)
    problem = "" if files else "the folder has no weights"
    yield Finding("model", f"{settings.model_id} in {folder}", problem), weights_bytes
    if files:
        names = ", ".join(file.name for file in files[:MAX_FILE_NAMES])
        ellipsis = " …" if len(files) > MAX_FILE_NAMES else ""
        yield Finding("weights", f"{names}{ellipsis}: {weights_bytes / GIB:.2f} GiB"), weights_bytes


def _examine_memory(settings: Settings, weights_bytes: int) -> Iterator[Finding]:
    """Yield findings on the device's memory and the disk of CACHE_DIR, or nothing if DEVICE cannot be used."""
    from handler.engine.device import choose_device, free_memory

    try:
        free_bytes = free_memory(choose_device(settings.device))
    except SettingsError:
        return
    is_tight = free_bytes < MEMORY_FACTOR * weights_bytes
    problem = f"the weights' files alone have {weights_bytes / GIB:.1f} GiB" if is_tight else ""
    yield Finding("free memory", f"{free_bytes / GIB:.1f} GiB", problem)
    yield _examine_cache(settings.cache_dir, has_weights=weights_bytes > 0)


def _examine_temporary_folder(settings: Settings) -> Finding:
    """Return how much room there is for files, which are kept in the temporary folder while they are transcribed."""
    name = "temporary folder"
    try:
        folder = Path(tempfile.gettempdir())
        with tempfile.TemporaryFile() as file:
            file.write(bytes(mmap.PAGESIZE))
            file.flush()
            free_bytes = shutil.disk_usage(folder).free
    except OSError as exc:
        return Finding(name, os.environ.get("TMPDIR", ""), f"no file can be written: {exc.strerror} (TMPDIR)")
    is_small = free_bytes < settings.max_bytes
    problem = f"less than one file of MAX_BYTES, {settings.max_bytes / GIB:.1f} GiB (TMPDIR)" if is_small else ""
    return Finding(name, f"{folder}: {free_bytes / GIB:.1f} GiB free", problem)


def _examine_cache(folder: Path, has_weights: bool) -> Finding:
    if not folder.is_dir():
        consequence = ": nothing is kept there" if has_weights else " yet"
        return Finding("cache", f"{folder}", f"the folder does not exist{consequence}")
    is_writable = os.access(folder, os.W_OK)
    problem = "" if is_writable else "the folder cannot be written: nothing can be downloaded or kept"
    return Finding("cache", f"{folder}: {shutil.disk_usage(folder).free / GIB:.1f} GiB free", problem)
