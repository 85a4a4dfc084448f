"""Run the RunPod worker: `python -m handler`.

Outside of RunPod there is no queue. The SDK then runs the job in test_input.json once.
"""

import os
import sys

from handler.errors import AsrError
from handler.exit_codes import CANNOT_START, DECODING_LOST, DEVICE_LOST
from handler.settings import SettingsError

JOBS_PER_SEQUENCE = 4  # concurrent jobs per sequence of the batch, if CONCURRENCY is unset


def main() -> None:
    """Load the model, then serve the queue until the platform ends the process.

    Exits with CANNOT_START if the model cannot be loaded, with DEVICE_LOST if the device can no longer be used, and
    with DECODING_LOST if audio can no longer be decoded.
    """
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")  # the SDK's own default logs complete results
    try:
        from handler import worker
    except (AsrError, SettingsError) as exc:
        print(f"cannot start: {exc}", file=sys.stderr)
        sys.exit(CANNOT_START)
    from handler.jobs.worker_loop import serve

    settings, pipeline = worker.settings, worker.pipeline
    # The number is constant, because the SDK changes it only while no job is running. It exceeds the batch size, so
    # that further jobs are waiting when one ends.
    concurrency = settings.concurrency or min(settings.max_requests, JOBS_PER_SEQUENCE * pipeline.max_batch_size)
    config = {
        "handler": worker.stream if settings.stream else worker.handler,
        "return_aggregate_stream": True,
        "concurrency_modifier": lambda current: concurrency,
    }
    try:
        serve(config, settings.drain_timeout_s)
    finally:
        pipeline.close()  # a thread that is still working while the interpreter exits would crash it
    if pipeline.fault is not None:
        sys.exit(DEVICE_LOST if pipeline.is_device_lost else DECODING_LOST)


if __name__ == "__main__":
    main()
