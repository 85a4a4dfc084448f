"""Where and in which number format the network runs. Knows no model."""

from pathlib import Path

import torch

from handler.settings import GIB, SettingsError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MATRIX_UNIT = "amx_bf16"  # without it PyTorch's fused attention takes twice the time of plain products
_CPU_BF16_FLAGS = {"avx512_bf16", _MATRIX_UNIT}  # with these, products in bfloat16 are several times faster than in float32


def choose_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises SettingsError where there is none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError("DEVICE", name, f"a device of this machine, which has {torch.cuda.device_count()} CUDA devices")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The format for `auto` or a name: bfloat16 where the device computes in it, float16 on older GPUs, float32 elsewhere."""
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _CPU_BF16_FLAGS & _cpu_flags() else torch.float32


def choose_attention(flash_attention_2: bool, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """The network's attention by its name there, and why it is that one."""
    if device.type == "cpu":
        refused = "FlashAttention-2 needs a CUDA device; " if flash_attention_2 else ""
        if dtype == torch.bfloat16 and _MATRIX_UNIT in _cpu_flags():
            return "sdpa_throughout", f"{refused}PyTorch's kernels use the processor's matrix unit"
        return "blocked", f"{refused}blocks that stay in the processor's cache"
    if not flash_attention_2:
        return "sdpa", "PyTorch chooses the kernel"
    if dtype == torch.float32:
        return "sdpa", "FlashAttention-2 needs float16 or bfloat16"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "sdpa", "FlashAttention-2 needs an Ampere GPU or a later one"
    return "flash_attention_2", "asked for by FLASH_ATTENTION_2"


def choose_short_context(name: str, device: torch.device) -> bool:
    """Whether the encoder is given no more of a short window than it needs, for `auto`, `short` or `full`.

    On a GPU `auto` means full: every shape is known there before the first window comes.
    """
    return device.type == "cpu" if name == "auto" else name == "short"


def free_memory(device: torch.device) -> int:
    """Bytes that could be taken now; of a CPU's machine what Linux says, and 4 GiB where it says nothing."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 4 * GIB)


def device_name(device: torch.device) -> str:
    """The GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _cpu_flags() -> set[str]:
    """What the processor can do, as Linux lists it; empty elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
