"""Tuning of a process that starts and then serves: faster imports, and a collector that ignores what was loaded.

Both change the whole process, so only entry points use them, around `bootstrap.build`. Knows no model.
"""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH_INTERVAL_S = 0.0005  # how long a thread may hold the interpreter's lock while others wait for it


@contextmanager
def fast_imports() -> Iterator[None]:
    """Pause garbage collection and shorten the threads' turns while a block imports and loads; then restore both."""
    switch_interval, is_collecting = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(switch_interval)
        if is_collecting:
            gc.enable()


def freeze_garbage_collector() -> None:
    """Exclude all objects that exist now from garbage collection, until the process exits.

    What is loaded at the start stays. Searching it for garbage would stop every thread for a fifth of a second.
    Called at the end of a `fast_imports` block, it also saves the search that the end of the pause would cause.
    """
    atexit.register(gc.unfreeze)  # otherwise libraries report at exit that their objects were never collected
    gc.freeze()
