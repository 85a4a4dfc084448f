"""What a measurement ran on."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """What this machine computes with."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
