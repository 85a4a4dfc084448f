"""Load the engine for a checkpoint folder by the settings. Knows no request."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from handler import logs
from handler.engine.cpu_tuning import return_freed_memory
from handler.engine.device import choose_attention, choose_device, choose_dtype, choose_short_context, device_name, free_memory
from handler.schema.window import SAMPLE_RATE
from handler.settings import Settings
from handler.timeline import Timeline
from handler.whisper.checkpoint.conversion_cache import ConversionCache
from handler.whisper.checkpoint.reader import load, open_checkpoint
from handler.whisper.dims import Dims
from handler.whisper.engine import WhisperEngine, memory_errors
from handler.whisper.kv_cache import Cache
from handler.whisper.tokenizer import Tokenizer

MEMORY_SHARE = 0.7  # of the free memory that rows may take


MOST_ROWS = {"cpu": 16}  # more of them win nothing: a CPU waits for memory either way


def load_engine(folder: Path, settings: Settings, kept: ConversionCache | None = None, timeline: Timeline | None = None) -> WhisperEngine:
    """The engine for a folder with a Whisper checkpoint. Raises ModelUnavailable, OutOfMemory, SettingsError."""
    timeline = timeline or Timeline()
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    attention, why = choose_attention(settings.flash_attention_2, device, dtype)
    checkpoint = open_checkpoint(folder)
    settings.check_window(checkpoint.dims.window_samples / SAMPLE_RATE)
    with ThreadPoolExecutor(1, "vocabulary") as beside, memory_errors():
        reading = beside.submit(_vocabulary, folder, checkpoint.dims.n_vocab, timeline)
        with return_freed_memory():
            with timeline.span("weights_read"):
                model = load(checkpoint, device, dtype, kept)
            with timeline.span("weights_packed"):
                model.pack()
        tokenizer = reading.result()
        slots = settings.batch_size or rows_that_fit(checkpoint.dims, dtype, free_memory(device), device.type)
        with timeline.span("engine_built"):
            engine = WhisperEngine(
                settings.model_id,
                model,
                tokenizer,
                checkpoint.suppress or tokenizer.non_speech,
                device_name=device_name(device),
                attention=attention,
                slots=slots,
                max_new_tokens=settings.max_new_tokens,
                named_heads=checkpoint.alignment_heads,
                short_context=choose_short_context(settings.audio_context, device),
                timeline=timeline,
            )
    logs.info(
        "engine_loaded", model=settings.model_id, device=engine.device_name, dtype=str(dtype).removeprefix("torch."),
        attention=attention, attention_reason=why, slots=slots,
    )  # fmt: skip
    return engine


def _vocabulary(folder: Path, n_vocab: int, timeline: Timeline) -> Tokenizer:
    with timeline.span("vocabulary_read"):
        return Tokenizer.from_folder(folder, n_vocab)


def rows_that_fit(dims: Dims, dtype: torch.dtype, memory: int, kind: str) -> int:
    """Rows for BATCH_SIZE=auto: as many as `memory` bytes hold beside their windows' way through the encoder, up to what pays."""
    encoding = 16 * dims.n_audio_ctx * dims.n_audio_state * dtype.itemsize  # a window's widest layer, and its neighbours
    fitting = round(MEMORY_SHARE * memory) // (Cache.slot_bytes(dims, dtype) + encoding)
    return max(1, min(fitting, MOST_ROWS.get(kind, 64)))
