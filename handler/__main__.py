"""`python -m handler`: the RunPod worker. Without a queue it runs test_input.json once, as the SDK does."""

import os
import sys

from handler.errors import AsrError
from handler.exit_codes import CANNOT_START, DEVICE_LOST
from handler.settings import SettingsError

JOBS_PER_SEQUENCE = 4  # jobs in work for each sequence of the batch, if CONCURRENCY is unset


def main() -> None:
    """Load the model, then serve the queue until the platform ends the process."""
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")  # the SDK's own default logs complete results
    try:
        from handler import worker
    except (AsrError, SettingsError) as exc:
        print(f"cannot start: {exc}", file=sys.stderr)
        sys.exit(CANNOT_START)
    from handler.jobs.worker_loop import serve

    settings, pipeline = worker.settings, worker.pipeline
    # Constant, since the SDK waits until it is idle to change it; some jobs wait while others are decoded.
    concurrency = settings.concurrency or min(settings.max_requests, JOBS_PER_SEQUENCE * pipeline.engine.max_batch_size)
    config = {
        "handler": worker.stream if settings.stream else worker.handler,
        "return_aggregate_stream": True,
        "concurrency_modifier": lambda current: concurrency,
    }
    try:
        serve(config, settings.drain_timeout_s)
    finally:
        pipeline.close()  # a thread that is still working while the interpreter exits would crash it
    if pipeline.runner.fault is not None:
        sys.exit(DEVICE_LOST)


if __name__ == "__main__":
    main()
