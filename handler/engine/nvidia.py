"""What the system says of NVIDIA GPUs, whether or not PyTorch can use them. Knows no PyTorch."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

_VERSION = re.compile(r"\b[0-9]{3,}\.[0-9]+(\.[0-9]+)?\b")
_DRIVER = "proc/driver/nvidia/version"
# Files that exist where a GPU is shown to this process, on Linux and under WSL. The driver's own file is seen in
# every container of a host; the variables of the container runtime say nothing, because images set them everywhere.
_SIGNS = ("dev/nvidia[0-9]*", "usr/lib/wsl/lib/libcuda.so*")


def has_gpu(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this machine has an NVIDIA GPU and shows it to this process."""
    if environment.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return False
    return any(next(root.glob(sign), None) is not None for sign in _SIGNS)


def driver_version(root: Path = Path("/")) -> str:
    """Return the version of the loaded driver, such as `570.86.15`, or nothing if it is not known."""
    try:
        first_line = (root / _DRIVER).read_text().partition("\n")[0]
    except OSError:
        return ""
    version = _VERSION.search(first_line)
    return version[0] if version else ""
