"""Choice of the device that the network runs on, its number format and its attention kernels. Knows no model."""

from pathlib import Path

import torch

from handler.settings import GIB, SettingsError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MATRIX_UNIT = "amx_bf16"  # a CPU without it takes twice as long for PyTorch's fused attention as for plain products
_CPU_BF16_FLAGS = {"avx512_bf16", _MATRIX_UNIT}  # with either of them, bfloat16 products are several times faster


def choose_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`.

    `auto` is the GPU if there is one, and otherwise the CPU. Raises SettingsError if the machine does not have the
    device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(name)
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        expected = f"a device of this machine, which has {torch.cuda.device_count()} CUDA devices"
        raise SettingsError("DEVICE", name, expected)
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format for `auto`, `float32`, `bfloat16` or `float16`.

    `auto` is bfloat16 if the hardware of the device supports it. Otherwise it is float16 on a GPU and float32 on a CPU.
    """
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
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

    `name` is `auto`, `short` or `full`. `auto` means short on a CPU. On a GPU it means full, so that every tensor shape
    is known in advance.
    """
    return device.type == "cpu" if name == "auto" else name == "short"


def free_memory(device: torch.device) -> int:
    """Return the free memory of a GPU, or of the machine for a CPU, in bytes.

    Assume 4 GiB for a CPU if the system does not report its available memory.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 4 * GIB)


def device_name(device: torch.device) -> str:
    """Return the model name of a GPU, or `cpu` for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _cpu_flags() -> set[str]:
    """Return the feature flags of the processor as Linux lists them. Return an empty set if none are listed."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
