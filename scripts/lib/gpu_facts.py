"""What a machine is, as far as the speed of a GPU depends on it. See scripts/gpu_check."""

import os
import platform
from typing import Any

import torch

from handler.engine.device import device_name
from handler.engine.nvidia import driver_version
from handler.engine.processors import available_processors
from handler.settings import GIB
from scripts.lib.gpu_timing import seconds_per_call
from scripts.lib.machine import machine

VARIABLES = ("CUDA_LAUNCH", "CUDA_VISIBLE", "PYTORCH_CUDA", "OMP_NUM")  # beginnings of names that affect speed
_COPY_BYTES = 256 * 1024**2


def facts() -> dict[str, Any]:
    """Return facts of the machine that need no GPU."""
    return {
        "processor": machine("cpu"),
        "processors_of_the_cgroup": available_processors(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda_of_torch": torch.version.cuda,
        "driver": driver_version(),
        "kernels_for": torch.cuda.get_arch_list() if torch.version.cuda else [],
        "cuda_devices": torch.cuda.device_count(),
        "variables": {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)},
    }


def device_facts(device: torch.device) -> dict[str, Any]:
    """Return facts of a device."""
    if device.type == "cpu":
        return {"device": device_name(device)}
    free, total = torch.cuda.mem_get_info(device)
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "device": device_name(device),
        "capability": f"sm_{major}{minor}",
        "memory_gib": round(total / GIB, 1),
        "free_gib": round(free / GIB, 1),
        "copy_gb_per_s": {"pinned": _copy_rate(device, True), "pageable": _copy_rate(device, False)},
    }


def _copy_rate(device: torch.device, pinned: bool) -> float:
    """Return how many GB a second are copied to the device."""
    host = torch.zeros(_COPY_BYTES, dtype=torch.uint8, pin_memory=pinned)
    target = torch.empty_like(host, device=device)
    return round(_COPY_BYTES / seconds_per_call(lambda: target.copy_(host, non_blocking=True), device) / 1e9, 1)
