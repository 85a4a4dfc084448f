"""Loading of a checkpoint folder into an engine, as the settings demand. Knows no request."""

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from handler import logs
from handler.engine.cpu_tuning import usable_threads
from handler.engine.device import (
    as_large_as_fits,
    choose_attention,
    choose_short_context,
    device_name,
    free_memory,
    on_device,
    prepare_device,
)
from handler.engine.device_errors import device_errors
from handler.engine.heap import return_freed_memory
from handler.schema.window import SAMPLE_RATE
from handler.settings import Settings, SettingsError
from handler.timeline import Timeline
from handler.whisper.aligner import WhisperAligner
from handler.whisper.alignment_heads import alignment_heads
from handler.whisper.alignment_queries import Heads
from handler.whisper.attention import (
    ATTENTION_KERNELS,
    PAGE_STEP,
    PagedAttention,
    Pages,
    flash_paged_attention,
    paged_by_products,
)
from handler.whisper.checkpoint.conversion_cache import ConversionCache
from handler.whisper.checkpoint.layout import Checkpoint
from handler.whisper.checkpoint.reader import load, open_checkpoint
from handler.whisper.cuda_graphs import cuda_capture
from handler.whisper.dims import Dims
from handler.whisper.engine import WhisperEngine
from handler.whisper.kv_cache import KVCache, round_up
from handler.whisper.model import Whisper
from handler.whisper.preparation import Background, BackgroundThread, SideStream
from handler.whisper.tokenizer import Tokenizer
from handler.whisper.workshop import Workshop

MAX_DIFFERENCE = 0.02  # between the results of two attention kernels, whose values are near 1
_PROBE_ROWS = 8  # sequences; a kernel may work in another way for one than for several
MEMORY_SHARE = 0.7  # share of the free memory that a batch of automatic size may use
AUTO_BATCH_LIMIT = 64
# Windows whose words are timed together. What one pass over a text gains by more rows is little.
ALIGNED_TOGETHER_CPU, ALIGNED_TOGETHER_CUDA = 4, 8
AUTO_BATCH_LIMIT_CPU = 16  # larger batches gain no speed on a CPU, which waits for memory either way


def load_engine(
    folder: Path, settings: Settings, conversions: ConversionCache | None = None, timeline: Timeline | None = None
) -> WhisperEngine:
    """Load the Whisper checkpoint in `folder`, and return an engine for it.

    `conversions` caches converted weights. If it is None, weights that need conversion are converted at every load.
    `timeline` receives the durations of the loading steps. Raises ModelUnavailable, OutOfMemory, DeviceLost or
    SettingsError.
    """
    timeline = timeline or Timeline()
    if settings.model_language is not None:
        raise SettingsError("MODEL_LANGUAGE", settings.model_language, "no value: Whisper knows its languages")
    if settings.backend != "pytorch":
        raise SettingsError("BACKEND", settings.backend, "pytorch: Whisper runs on an engine of its own")
    if settings.align_model is not None:
        raise SettingsError(
            "ALIGN_MODEL", settings.align_model, f"no value: {settings.model_id} times its words itself"
        )
    device, dtype = prepare_device(settings)
    choose_short_context(settings.audio_context, device)  # raises an error before anything is read
    checkpoint = open_checkpoint(folder)
    settings.check_window(checkpoint.dims.window_samples / SAMPLE_RATE)
    with device_errors(), on_device(device):
        model, tokenizer = _load_parts(folder, checkpoint, device, dtype, conversions, timeline)
        suppress = checkpoint.suppress or tokenizer.non_speech
        return build_engine(model, tokenizer, suppress, checkpoint.alignment_heads, settings, timeline)


def load_aligner(
    folder: Path, settings: Settings, conversions: ConversionCache | None = None, timeline: Timeline | None = None
) -> WhisperAligner:
    """Load the Whisper checkpoint in `folder`, and return what times the words of other models' texts with it.

    Raises ModelUnavailable, OutOfMemory, DeviceLost or SettingsError. See load_engine.
    """
    timeline = timeline or Timeline()
    device, dtype = prepare_device(settings)
    checkpoint = open_checkpoint(folder)
    with device_errors(), on_device(device):
        model, tokenizer = _load_parts(folder, checkpoint, device, dtype, conversions, timeline)
        attention, _ = _choose_attention(settings, model.dims, device, dtype)
        return WhisperAligner(
            settings.align_model or folder.name,
            model,
            tokenizer,
            checkpoint.alignment_heads or alignment_heads(model.dims, tokenizer.specials.multilingual),
            attention=attention,
            slots=ALIGNED_TOGETHER_CPU if device.type == "cpu" else ALIGNED_TOGETHER_CUDA,
            short_context=choose_short_context(settings.audio_context, device),
        )


def _load_parts(
    folder: Path,
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    conversions: ConversionCache | None,
    timeline: Timeline,
) -> tuple[Whisper, Tokenizer]:
    """Load the network and, at the same time, the vocabulary of a checkpoint."""
    with ThreadPoolExecutor(1, "vocabulary") as executor:
        tokenizer = executor.submit(_load_tokenizer, folder, checkpoint.dims.n_vocab, timeline)
        model = _load_model(checkpoint, device, dtype, conversions, timeline)
        return model, tokenizer.result()


def build_engine(
    model: Whisper,
    tokenizer: Tokenizer,
    suppress: Collection[int],
    checkpoint_heads: Heads,
    settings: Settings,
    timeline: Timeline,
) -> WhisperEngine:
    """Return an engine for a model that is on its device, with the fastest kernels that work there.

    Raises OutOfMemory, DeviceLost, SettingsError.
    """
    device, dtype, dims = model.decoder.positions.device, model.decoder.positions.dtype, model.dims
    attention, attention_reason = _choose_attention(settings, dims, device, dtype)
    slots = settings.batch_size or auto_batch_size(dims, dtype, free_memory(device), device.type)
    workshop = Workshop(
        model,
        tokenizer,
        suppress,
        checkpoint_heads,
        attention=attention,
        max_new_tokens=settings.max_new_tokens,
        short_context=choose_short_context(settings.audio_context, device),
        capture=cuda_capture() if device.type == "cuda" else None,
        paged=_paged_attention(dims, device, dtype),
        timeline=timeline,
    )
    build = partial(
        WhisperEngine,
        settings.model_id,
        workshop,
        device_name=device_name(device),
        capture_encoder=cuda_capture() if device.type == "cuda" else None,
        background=_background(device),
    )
    with timeline.span("engine_built"):
        engine = _build(build, slots)
    _log_engine(engine, attention_reason)
    return engine


def _log_engine(engine: WhisperEngine, attention_reason: str) -> None:
    logs.info(
        "engine_loaded",
        model=engine.model_id,
        device=engine.device_name,
        dtype=engine.dtype_name,
        attention=engine.attention,
        attention_reason=attention_reason,
        slots=engine.max_batch_size,
    )


def _build(build: Callable[..., WhisperEngine], slots: int) -> WhisperEngine:
    """Build an engine of `slots` slots, or of as many as memory allows, which a warning tells. Raises OutOfMemory."""
    engine = as_large_as_fits(lambda size: build(slots=size), slots)
    if engine.max_batch_size < slots:
        logs.warning("batch_halved", rows=engine.max_batch_size)
    return engine


def _background(device: torch.device) -> Background | None:
    """Return what prepares windows beside the decoding steps, or None if the processor has one thread for us."""
    if device.type == "cuda":
        return SideStream()
    threads = usable_threads()
    return BackgroundThread(threads // 2) if threads > 1 else None


def _choose_attention(settings: Settings, dims: Dims, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Return the name of the attention kernels and the reason for the choice.

    Kernels that the settings ask for are tried once; if they are refused, a warning says so and others are taken.
    """
    name, reason = choose_attention(settings.flash_attention_2, device, dtype)
    if name != "flash_attention_2":
        if settings.flash_attention_2:
            logs.warning("flash_attention_refused", reason=reason)
        return name, reason
    kernels = ATTENTION_KERNELS[name]
    depth = dims.n_audio_state // dims.n_audio_head
    q = torch.zeros(1, dims.n_audio_head, dims.n_audio_ctx, depth, device=device, dtype=dtype)
    try:
        with kernels.encoder_context():
            kernels.unmasked(q, q, q)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as exc:
        reason = f"FlashAttention-2 does not run here: {str(exc).splitlines()[0]}"
        logs.warning("flash_attention_refused", reason=reason)
        return "sdpa", reason
    return name, reason


def _paged_attention(dims: Dims, device: torch.device, dtype: torch.dtype) -> PagedAttention | None:
    """Return the kernel that attends to pages, or None where there is none. It is tried once beside products."""
    if device.type != "cuda" or dtype == torch.float32 or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    heads, depth = dims.n_text_head, dims.n_text_state // dims.n_text_head
    length = round_up(dims.n_audio_ctx, PAGE_STEP)
    q = torch.randn(_PROBE_ROWS, heads, 1, depth, device=device, dtype=dtype) / depth**0.5
    k, v = (
        torch.randn(_PROBE_ROWS, heads, length, depth, device=device, dtype=dtype).transpose(1, 2) for _ in range(2)
    )
    numbers = torch.arange(_PROBE_ROWS + 1, device=device, dtype=torch.int32)
    lengths = (numbers[1:] * dims.n_audio_ctx) // _PROBE_ROWS  # from a part of the audio to all of it
    pages = Pages(numbers[:-1].flip(0)[:, None], lengths, numbers, dims.n_audio_ctx)
    try:
        difference = flash_paged_attention(q, k, v, pages) - paged_by_products(q, k, v, pages)
        reason = "" if difference.abs().amax() < MAX_DIFFERENCE else "it computes something else than products"
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as exc:
        reason = str(exc).splitlines()[0]
    if reason:
        logs.warning("paged_attention_refused", reason=reason)
        return None
    return flash_paged_attention


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

    Each sequence needs a slot of the KV cache, and memory to encode a window. Up to a quarter as many windows are
    prepared at a time, with keys and values of their own. The batch size is the number of sequences for which
    MEMORY_SHARE of `memory`, the free memory in bytes, has room. The batch size is at least 1, and at most the size
    above which larger batches gain no speed.
    """
    encoder_bytes = 16 * dims.n_audio_ctx * dims.n_audio_state * dtype.itemsize  # for the widest activations
    prepared_bytes = KVCache.audio_bytes(dims, dtype) // 4
    sequence_bytes = KVCache.slot_bytes(dims, dtype) + encoder_bytes + prepared_bytes
    capacity = round(MEMORY_SHARE * memory) // sequence_bytes
    limit = AUTO_BATCH_LIMIT_CPU if device_type == "cpu" else AUTO_BATCH_LIMIT
    return max(1, min(capacity, limit))
