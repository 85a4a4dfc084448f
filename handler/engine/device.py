"""Choice of the device that the network runs on, its number format and its attention kernels. Knows no model."""

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch

from handler.engine.nvidia import driver_version, has_gpu
from handler.errors import OutOfMemory
from handler.settings import GIB, Settings, SettingsError

T = TypeVar("T")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MATRIX_UNIT = "amx_bf16"  # a CPU without it takes twice as long for PyTorch's fused attention as for plain products
_AVX512 = "avx512f"  # a CPU without it takes half as long in the encoder for fused attention as for plain products
_BYTE_UNITS = {"avx512_vnni", "avx_vnni", "amx_int8"}  # with any of them, products of bytes are several times faster
_CPU_BF16_FLAGS = {"avx512_bf16", _MATRIX_UNIT}  # with either of them, bfloat16 products are several times faster


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`. A GPU always has its number.

    `auto` is the GPU if the machine has one, and otherwise the CPU. Raises SettingsError if the machine does not have
    the device, or for `auto` if it has a GPU that this PyTorch cannot use: work that is paid for by the second of a GPU
    is never done by the processor without a word.
    """
    if name == "auto" and not torch.cuda.is_available():
        if has_gpu():
            raise SettingsError("DEVICE", name, f"a GPU that PyTorch can use, or DEVICE=cpu; {why_no_gpu()}")
        return torch.device("cpu")
    device = torch.device("cuda" if name == "auto" else name)
    if device.type != "cuda":
        return device
    index = device.index or 0
    if index >= torch.cuda.device_count():
        reason = f"; {why_no_gpu()}" if has_gpu() and not torch.cuda.is_available() else ""
        expected = f"a device of this machine, which has {torch.cuda.device_count()} CUDA devices{reason}"
        raise SettingsError("DEVICE", name, expected)
    return torch.device("cuda", index)


def why_no_gpu() -> str:
    """Return why this PyTorch cannot use the GPU of this machine, and what to do."""
    if torch.version.cuda is None:
        return f"this machine has a GPU, and PyTorch {torch.__version__} is built without CUDA: install one with it"
    driver = driver_version()
    found = f"driver {driver}" if driver else "a driver of unknown version"
    return (
        f"this machine has a GPU with {found}, and PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}: "
        f"choose a host with a newer driver, or an image for an older CUDA"
    )


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which a GPU is the current one of the calling thread.

    What names no device, such as a new stream or pinned memory, otherwise belongs to the first GPU.
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def try_device(device: torch.device) -> None:
    """Compute something on the device. Raises torch.OutOfMemoryError, and SettingsError if the device cannot be used.

    PyTorch accepts a GPU that it has no kernels for, and fails only when the first one is started.
    """
    try:
        with on_device(device):
            if torch.zeros(8, device=device).add_(1).sum().item() != 8:
                raise SettingsError("DEVICE", str(device), "a device that adds ones up to eight; it is broken")
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as exc:
        expected = f"a device that can be used: {str(exc).splitlines()[0]}"
        raise SettingsError("DEVICE", str(device), expected + _kernels_of(device)) from exc


def _kernels_of(device: torch.device) -> str:
    """Return which GPUs PyTorch has kernels for, and which one this is. Return nothing for a CPU."""
    if device.type != "cuda":
        return ""
    try:
        major, minor = torch.cuda.get_device_capability(device)
        known = ", ".join(torch.cuda.get_arch_list())
        return f" ({torch.cuda.get_device_name(device)} is sm_{major}{minor}; PyTorch has kernels for {known})"
    except RuntimeError:
        return ""


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format for `auto`, `float32`, `bfloat16` or `float16`.

    `auto` is float16 on a GPU: the mean difference of log-probabilities from those of float32 is a tenth of that of
    bfloat16. On a CPU it is bfloat16 if the processor computes in it, and otherwise float32.
    """
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if _CPU_BF16_FLAGS & _cpu_flags() else torch.float32


def choose_attention(flash_attention_2: bool, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Return the name of the attention kernels to use, and the reason for the choice as a text for the log.

    The name is a key of handler.whisper.attention.ATTENTION_KERNELS. `flash_attention_2` asks for FlashAttention-2,
    which is used only if the device and the dtype support it.
    """
    if device.type == "cpu":
        refusal = "FlashAttention-2 needs a CUDA device; " if flash_attention_2 else ""
        if dtype == torch.bfloat16 and _MATRIX_UNIT in _cpu_flags():
            return "sdpa_throughout", f"{refusal}PyTorch's kernels use the processor's matrix unit"
        if _AVX512 not in _cpu_flags():
            return "sdpa_transposed", f"{refusal}the fastest on a processor without AVX-512"
        return "blocked", f"{refusal}blocks that stay in the processor's cache"
    if not flash_attention_2:
        return "sdpa", "PyTorch chooses the kernel"
    if dtype == torch.float32:
        return "sdpa", "FlashAttention-2 needs float16 or bfloat16"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "sdpa", "FlashAttention-2 needs an Ampere GPU or a later one"
    return "flash_attention_2", "asked for by FLASH_ATTENTION_2"


def choose_short_context(name: str, device: torch.device) -> bool:
    """Return whether the encoder pads a short window with only a few seconds of silence instead of padding to 30 s.

    `name` is `auto`, `short` or `full`. `auto` means short on a CPU, and full on a GPU, whose captured steps read audio
    of one length. Raises SettingsError if `name` is `short` and the device is a GPU.
    """
    if name == "short" and device.type != "cpu":
        raise SettingsError("AUDIO_CONTEXT", name, "auto or full on a GPU, whose captured steps read 30 s of audio")
    return device.type == "cpu" and name != "full"


def free_memory(device: torch.device) -> int:
    """Return the free memory of a GPU, or of the machine for a CPU, in bytes.

    Assume 4 GiB for a CPU if the system does not report its available memory.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 4 * GIB)


def prepare_device(settings: Settings) -> tuple[torch.device, torch.dtype]:
    """Return the device and the number format that the settings name, and make the device add up exactly.

    Raises SettingsError.
    """
    device = choose_device(settings.device)
    compute_exactly(device)
    return device, choose_dtype(settings.dtype, device)


def compute_exactly(device: torch.device) -> None:
    """Make a GPU add up products of half precision in float32, always: sums in float16 may overflow."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def as_large_as_fits(build: Callable[[int], T], size: int) -> T:
    """Return what `build` makes of `size`, or of a half of it as often as `build` raises OutOfMemory.

    Raises OutOfMemory if even size 1 does not fit.
    """
    while True:
        try:
            return build(size)
        except OutOfMemory:
            if size == 1:
                raise
        # Only here, outside of the `except` block, nothing holds the memory of what failed any more.
        size //= 2
        release_memory()


def release_memory() -> None:
    """Return memory that nothing uses any more to the current GPU."""
    gc.collect()  # cycles would keep tensors alive
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device_name(device: torch.device) -> str:
    """Return the model name of a GPU, or `cpu` for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def has_byte_products(device: torch.device) -> bool:
    """Return whether a device is a processor that computes products of bytes fast, and PyTorch has them."""
    has_unit = device.type == "cpu" and bool(_BYTE_UNITS & _cpu_flags())
    return has_unit and hasattr(torch.ops.onednn, "qconv2d_pointwise")


def _cpu_flags() -> set[str]:
    """Return the feature flags of the processor as Linux lists them. Return an empty set if none are listed."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
