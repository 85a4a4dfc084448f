"""What this machine and these settings make of a start: one line a fact, and what is in the way. Knows no door."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from handler import __version__
from handler.errors import AsrError
from handler.settings import GIB, Settings, SettingsError
from handler.startup.model_locator import find_local, weights_in
from handler.timeline import Timeline
from handler.transcription.pipeline import Pipeline

ROOM = 1.2  # of the size of the weights' files: with less memory free, nothing can be loaded
NVIDIA = Path("/proc/driver/nvidia/version")  # there where a driver is loaded
Build = Callable[[Settings, Timeline], Pipeline]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact, and what is wrong with it if anything is."""

    name: str
    value: str
    trouble: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """What can be told without loading the model."""
    yield Finding("version", f"{__version__}, Python {platform.python_version()}")
    yield from _device(settings)
    size = 0
    for finding, found in _model(settings):
        size = max(size, found)
        yield finding
    yield from _room(settings, size)


def started(settings: Settings, timeline: Timeline, build: Build) -> Iterator[Finding]:
    """What a start comes to, and where its time went."""
    try:
        pipeline = build(settings, timeline)
    except Exception as exc:  # whatever it is, it is what a start would meet
        yield Finding("start", "failed", str(exc) if isinstance(exc, (AsrError, SettingsError)) else repr(exc))
        return
    pipeline.close()
    yield Finding("batch", f"{pipeline.engine.max_batch_size} windows")
    for span in timeline.spans():
        yield Finding(f"start: {span.name}", f"{span.seconds:.3f} s" + (f", from {span.at:.3f} s on" if span.at else ""))


def _device(settings: Settings) -> Iterator[Finding]:
    import torch

    from handler.engine.device import choose_attention, choose_device, choose_dtype, device_name

    driver = NVIDIA.read_text().splitlines()[0].partition("Module")[2].split()[0] if NVIDIA.is_file() else "none"
    trouble = ""
    if driver != "none" and not torch.cuda.is_available():
        made_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no GPU"
        trouble = f"PyTorch {torch.__version__} is made for {made_for} and cannot use it: a newer driver or another PyTorch is needed"
    yield Finding("NVIDIA driver", driver, trouble)
    try:
        device = choose_device(settings.device)
    except SettingsError as exc:
        yield Finding("device", settings.device, str(exc))
        return
    slow = "no GPU: audio is transcribed by the processor" if device.type == "cpu" and settings.device == "auto" else ""
    yield Finding("device", device_name(device), slow)
    dtype = choose_dtype(settings.dtype, device)
    yield Finding("dtype", str(dtype).removeprefix("torch."))
    name, why = choose_attention(settings.flash_attention_2, device, dtype)
    refused = settings.flash_attention_2 and name != "flash_attention_2"
    yield Finding("attention", f"{name}: {why}", "FLASH_ATTENTION_2=1 cannot be had here" if refused else "")


def _model(settings: Settings) -> Iterator[tuple[Finding, int]]:
    """Findings, each with the bytes of the weights as far as they are known."""
    try:
        folder = find_local(settings.model_id, settings.cache_dir, settings.model_revision)
    except AsrError as exc:
        yield Finding("model", settings.model_id, exc.message), 0
        return
    if folder is None:
        yield Finding("model", f"{settings.model_id}: not on this machine, to be downloaded from the Hub"), 0
        return
    files = weights_in(folder)
    size = sum(file.stat().st_size for file in files)
    names = ", ".join(file.name for file in files[:3]) + (" …" if len(files) > 3 else "")
    yield Finding("model", f"{settings.model_id} in {folder}", "" if files else "the folder has no weights"), size
    if files:
        yield Finding("weights", f"{names}: {size / GIB:.2f} GiB"), size


def _room(settings: Settings, size: int) -> Iterator[Finding]:
    from handler.engine.device import choose_device, free_memory

    try:
        free = free_memory(choose_device(settings.device))
    except SettingsError:
        return
    tight = f"the weights' files alone have {size / GIB:.1f} GiB" if free < ROOM * size else ""
    yield Finding("free memory", f"{free / GIB:.1f} GiB", tight)
    cache = settings.cache_dir
    if not cache.is_dir():
        yield Finding("cache", f"{cache}", "the folder does not exist: nothing is kept there" if size else "the folder does not exist yet")
        return
    trouble = "" if os.access(cache, os.W_OK) else "the folder cannot be written: nothing can be downloaded or kept"
    yield Finding("cache", f"{cache}: {shutil.disk_usage(cache).free / GIB:.1f} GiB free", trouble)
