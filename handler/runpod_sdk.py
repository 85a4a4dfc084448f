"""Import RunPod's SDK faster. Knows no job.

Without this module, the import would spend a second on finding out the name of the processor.
"""

import importlib
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_CPUINFO = Path("/proc/cpuinfo")
_import_lock = threading.Lock()


def import_sdk(name: str = "runpod") -> ModuleType:
    """Import and return the module `name`, which is the SDK or one of its modules. May be called from any thread."""
    with _import_lock:
        if "runpod" not in sys.modules:
            with _cpuinfo_stand_in(), _same_logging():
                importlib.import_module("runpod")
    return importlib.import_module(name)


@contextmanager
def _cpuinfo_stand_in() -> Iterator[None]:
    """Replace the module `cpuinfo` while the block imports the SDK.

    When the SDK is imported, runpod/serverless/utils/rp_debugger.py asks py-cpuinfo for the processor's name, and
    nothing else. To answer, py-cpuinfo would start a process that measures the processor for a second. The replacement
    returns the name that Linux reports.
    """
    name = _processor_name()
    if name is None or "cpuinfo" in sys.modules:
        yield
        return
    stand_in = ModuleType("cpuinfo")
    stand_in.get_cpu_info = lambda: {"brand_raw": name}  # type: ignore[attr-defined]
    sys.modules["cpuinfo"] = stand_in
    try:
        yield
    finally:
        del sys.modules["cpuinfo"]  # modules that import it later get the real one


@contextmanager
def _same_logging() -> Iterator[None]:
    """Remove the handlers that the block adds to the root logger. The SDK adds one that writes plain text to stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _processor_name() -> str | None:
    """Return the processor's name as Linux reports it. Return None on other systems."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
