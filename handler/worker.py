"""The entry point of RunPod's queue. Importing this module loads the model. Knows nothing of decoding.

The SDK calls `handler` or `stream` for each job.
"""

import importlib
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

from handler import logs
from handler.jobs.job_handler import JobHandler
from handler.settings import Settings
from handler.startup.bootstrap import build
from handler.startup.process_tuning import fast_imports, freeze_garbage_collector
from handler.timeline import Timeline

settings = Settings.from_env(os.environ)
logs.configure(settings.log_level)
timeline = Timeline.of_process()


def _worker_loop() -> Any:
    """Import and return the module with the SDK's loop. The first call is slow, so it is made while the model loads."""
    return importlib.import_module("handler.jobs.worker_loop")


def _import_sdk() -> None:
    with timeline.span("import_sdk"):
        _worker_loop()


async def _post_update(job_id: str, content: Any) -> None:
    await _worker_loop().post_update(job_id, content)


def _on_fault() -> None:
    logs.warning("worker_lost", reason=str(pipeline.fault), expected="a new worker")
    _worker_loop().ask_for_new_worker()


with fast_imports():
    pipeline = build(settings, timeline, during_load=_import_sdk)
    freeze_garbage_collector()
_job_handler = JobHandler(pipeline, settings, _post_update, _on_fault)


async def handler(event: Mapping[str, Any]) -> dict[str, Any]:
    """Transcribe a job and return its answer.

    If the job fails, return `{"error": text}`. The text begins with the error's code, such as `too_large`.
    """
    return await _job_handler.answer(event)


async def stream(event: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Transcribe a job and yield each part of its answer when it is ready. The last part does not repeat the text.

    The queue is served with this function if RUNPOD_STREAM is 1.
    """
    async for part in _job_handler.stream(event):
        yield part
