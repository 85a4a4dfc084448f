"""The device that the network runs on, its number format and its attention kernel. Knows no model."""

from pathlib import Path

import torch

from handler.settings import GIB, SettingsError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MATRIX_UNIT = "amx_bf16"  # without it PyTorch's fused attention takes twice the time of plain products
_CPU_BF16_FLAGS = {"avx512_bf16", _MATRIX_UNIT}  # with one of them, bfloat16 products are several times faster


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises SettingsError if the machine does not have it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(name)
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        expected = f"a device of this machine, which has {torch.cuda.device_count()} CUDA devices"
        raise SettingsError("DEVICE", name, expected)
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format for `auto` or a name.

    `auto` is bfloat16 if the device computes in it, float16 on older GPUs, and float32 on other processors.
    """
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _CPU_BF16_FLAGS & _cpu_flags() else torch.float32


def choose_attention(flash_attention_2: bool, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Return the name of the network's attention implementation, and the reason for the choice."""
    if device.type == "cpu":
        refusal = "FlashAttention-2 needs a CUDA device; " if flash_attention_2 else ""
        if dtype == torch.bfloat16 and _MATRIX_UNIT in _cpu_flags():
            return "sdpa_throughout", f"{refusal}PyTorch's kernels use the processor's matrix unit"
        return "blocked", f"{refusal}blocks that stay in the processor's cache"
    if not flash_attention_2:
        return "sdpa", "PyTorch chooses the kernel"
    if dtype == torch.float32:
        return "sdpa", "FlashAttention-2 needs float16 or bfloat16"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "sdpa", "FlashAttention-2 needs an Ampere GPU or a later one"
    return "flash_attention_2", "asked for by FLASH_ATTENTION_2"


def choose_short_context(name: str, device: torch.device) -> bool:
    """Return whether the encoder pads a short window with a few seconds of silence only, not up to 30 s.

    `name` is `auto`, `short` or `full`. On a GPU `auto` means full, so that every tensor shape is known in advance.
    """
    return device.type == "cpu" if name == "auto" else name == "short"


def free_memory(device: torch.device) -> int:
    """Return the bytes of memory that are available now: the GPU's or, for a CPU, the machine's.

    If Linux does not report them, the answer is 4 GiB.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 4 * GIB)


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _cpu_flags() -> set[str]:
    """Return the processor's features as Linux lists them; an empty set on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
