"""Loading of a checkpoint folder into an engine, as the settings demand. Knows no request."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from handler import logs
from handler.engine.cpu_tuning import return_freed_memory
from handler.engine.device import (
    choose_attention,
    choose_device,
    choose_dtype,
    choose_short_context,
    device_name,
    free_memory,
)
from handler.schema.window import SAMPLE_RATE
from handler.settings import Settings
from handler.timeline import Timeline
from handler.whisper.checkpoint.conversion_cache import ConversionCache
from handler.whisper.checkpoint.layout import Checkpoint
from handler.whisper.checkpoint.reader import load, open_checkpoint
from handler.whisper.dims import Dims
from handler.whisper.engine import WhisperEngine, memory_errors
from handler.whisper.kv_cache import KVCache
from handler.whisper.model import Whisper
from handler.whisper.tokenizer import Tokenizer

MEMORY_SHARE = 0.7  # share of the free memory that a batch of automatic size may use
AUTO_BATCH_LIMIT = 64
AUTO_BATCH_LIMIT_CPU = 16  # larger batches gain no speed on a CPU, which waits for memory either way


def load_engine(
    folder: Path, settings: Settings, conversions: ConversionCache | None = None, timeline: Timeline | None = None
) -> WhisperEngine:
    """Load the Whisper checkpoint in `folder`, and return an engine for it.

    `conversions` caches converted weights. If it is None, weights that need conversion are converted at every load.
    `timeline` receives the durations of the loading steps. Raises ModelUnavailable, OutOfMemory or SettingsError.
    """
    timeline = timeline or Timeline()
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    attention, attention_reason = choose_attention(settings.flash_attention_2, device, dtype)
    checkpoint = open_checkpoint(folder)
    settings.check_window(checkpoint.dims.window_samples / SAMPLE_RATE)
    with ThreadPoolExecutor(1, "vocabulary") as executor, memory_errors():
        tokenizer_future = executor.submit(_load_tokenizer, folder, checkpoint.dims.n_vocab, timeline)
        model = _load_model(checkpoint, device, dtype, conversions, timeline)
        tokenizer = tokenizer_future.result()
        slots = settings.batch_size or auto_batch_size(checkpoint.dims, dtype, free_memory(device), device.type)
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
                checkpoint_heads=checkpoint.alignment_heads,
                short_context=choose_short_context(settings.audio_context, device),
                timeline=timeline,
            )
    logs.info(
        "engine_loaded",
        model=settings.model_id,
        device=engine.device_name,
        dtype=str(dtype).removeprefix("torch."),
        attention=attention,
        attention_reason=attention_reason,
        slots=slots,
    )
    return engine


def _load_tokenizer(folder: Path, n_vocab: int, timeline: Timeline) -> Tokenizer:
    with timeline.span("vocabulary_read"):
        return Tokenizer.from_folder(folder, n_vocab)


def _load_model(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    conversions: ConversionCache | None,
    timeline: Timeline,
) -> Whisper:
    with return_freed_memory():
        with timeline.span("weights_read"):
            model = load(checkpoint, device, dtype, conversions)
        with timeline.span("weights_packed"):
            return model.pack()


def auto_batch_size(dims: Dims, dtype: torch.dtype, memory: int, device_type: str) -> int:
    """Return the number of sequences in a batch for BATCH_SIZE=auto.

    Each sequence needs a slot of the KV cache, and memory to encode a window. The batch size is the number of sequences
    for which MEMORY_SHARE of `memory`, the free memory in bytes, has room. The batch size is at least 1, and at most
    the size above which larger batches gain no speed.
    """
    encoder_bytes = 16 * dims.n_audio_ctx * dims.n_audio_state * dtype.itemsize  # for the widest activations
    capacity = round(MEMORY_SHARE * memory) // (KVCache.slot_bytes(dims, dtype) + encoder_bytes)
    limit = AUTO_BATCH_LIMIT_CPU if device_type == "cpu" else AUTO_BATCH_LIMIT
    return max(1, min(capacity, limit))
