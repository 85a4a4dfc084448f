"""The platform's SDK, imported without the second that it would spend on the processor's name. Knows no job and no door."""

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_CPUINFO = Path("/proc/cpuinfo")
_importing = threading.Lock()


def import_sdk(name: str = "runpod") -> ModuleType:
    """The SDK or a module of it; from any thread."""
    with _importing:
        if "runpod" not in sys.modules:
            with _processor_named():
                importlib.import_module("runpod")
    return importlib.import_module(name)


@contextmanager
def _processor_named() -> Iterator[None]:
    """While the SDK is imported, what it asks for the processor's name reads it from Linux.

    runpod/serverless/utils/rp_debugger.py asks py-cpuinfo for it at import, which starts a process that measures the processor
    for a second, and keeps nothing but the name.
    """
    name = _processor()
    if name is None or "cpuinfo" in sys.modules:
        yield
        return
    stand_in = ModuleType("cpuinfo")
    stand_in.get_cpu_info = lambda: {"brand_raw": name}  # type: ignore[attr-defined]
    sys.modules["cpuinfo"] = stand_in
    try:
        yield
    finally:
        del sys.modules["cpuinfo"]  # whoever else asks gets the whole answer


def _processor() -> str | None:
    """The processor's name as Linux has it; None elsewhere."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
