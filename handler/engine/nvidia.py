"""What the system says of NVIDIA GPUs, whether or not PyTorch can use them. Knows no PyTorch."""

import re
from pathlib import Path

_VERSION = re.compile(r"\b[0-9]{3,}\.[0-9]+(\.[0-9]+)?\b")
_DRIVER = "proc/driver/nvidia/version"
# Files that exist where there is a GPU: the driver's, its first device, and the GPU of Windows under WSL. The variables
# of the container runtime say nothing: images set them everywhere.
_SIGNS = (_DRIVER, "dev/nvidia0", "dev/dxg")


def has_gpu(root: Path = Path("/")) -> bool:
    """Return whether this machine has an NVIDIA GPU and shows it to this process."""
    return any((root / sign).exists() for sign in _SIGNS)


def driver_version(root: Path = Path("/")) -> str:
    """Return the version of the loaded driver, such as `570.86.15`, or nothing if it is not known."""
    try:
        first_line = (root / _DRIVER).read_text().partition("\n")[0]
    except OSError:
        return ""
    version = _VERSION.search(first_line)
    return version[0] if version else ""
