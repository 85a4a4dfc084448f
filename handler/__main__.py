"""`python -m handler`: the RunPod worker. Without a queue it runs test_input.json once, as the SDK does."""

import os
import sys

from handler.errors import AsrError
from handler.exit_codes import CANNOT_START, DEVICE_LOST
from handler.settings import SettingsError

CONCURRENCY = 4  # times the rows of the batch: so many jobs in work, where nobody says how many


def main() -> None:
    """Load the model, then serve the queue until the platform ends the process."""
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")  # its own default logs every result whole
    try:
        from handler import worker
    except (AsrError, SettingsError) as exc:
        print(f"cannot start: {exc}", file=sys.stderr)
        sys.exit(CANNOT_START)
    from handler.jobs.worker_loop import serve

    settings, rows = worker.settings, worker.pipeline.engine.max_batch_size
    # Constant, since the SDK waits until it is idle to change it; some wait while others are decoded.
    concurrency = settings.concurrency or min(settings.max_requests, CONCURRENCY * rows)
    config = {
        "handler": worker.stream if settings.stream else worker.handler,
        "return_aggregate_stream": True,
        "concurrency_modifier": lambda current: concurrency,
    }
    try:
        serve(config, settings.drain_timeout_s)
    finally:
        worker.pipeline.close()  # a thread that works on while the interpreter ends would crash it
    if worker.pipeline.runner.fault is not None:
        sys.exit(DEVICE_LOST)


if __name__ == "__main__":
    main()
