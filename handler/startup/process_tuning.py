"""Tune a server process: import faster, and exclude what was loaded from garbage collection.

Both functions affect the whole process, so only entry points call them, around `bootstrap.build`. Knows no model.
"""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH_INTERVAL_S = 0.0005  # longest time that a thread holds the interpreter's lock while others wait for it


@contextmanager
def fast_imports() -> Iterator[None]:
    """Make imports in the block faster.

    While the block runs, garbage collection is paused and the interpreter switches more often between threads. Both
    settings are restored when the block ends.
    """
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
    """Exclude all objects that exist now from garbage collection until the process exits.

    What was loaded at the start stays in use, and searching it for garbage would stop every thread for a fifth of a
    second. Call this function at the end of a `fast_imports` block, before the garbage collector resumes.
    """
    atexit.register(gc.unfreeze)  # without this, libraries report at exit that their objects were never collected
    gc.freeze()
