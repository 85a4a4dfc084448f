"""What a measurement ran on, and names for its files."""

import os
import platform
import re
from pathlib import Path


def machine(device: str) -> str:
    """What this machine computes with, by `cpu` or `cuda`."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
