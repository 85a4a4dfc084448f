"""The queue's door: importing it loads the model into device memory; `handler(event)` transcribes. Knows nothing of decoding."""

import importlib
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

from handler import logs
from handler.jobs.job_handler import JobHandler
from handler.settings import Settings
from handler.startup.bootstrap import build
from handler.timeline import Timeline

settings = Settings.from_env(os.environ)
logs.configure(settings.log_level)
timeline = Timeline.of_process()


def _scaler() -> Any:
    """The module with the SDK's loop; imported beside the weights, since it takes long."""
    return importlib.import_module("handler.jobs.worker_loop")


def _import_sdk() -> None:
    with timeline.span("import_sdk"):
        _scaler()


async def _post(job_id: str, content: Any) -> None:
    await _scaler().post_update(job_id, content)


def _lost() -> None:
    logs.warning("device_lost", expected="a new worker")
    _scaler().ask_for_new_worker()


pipeline = build(settings, timeline, beside=_import_sdk)
_desk = JobHandler(pipeline, settings, _post, _lost)


async def handler(event: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one job, or its error as text under `error`, beginning with the stable code."""
    return await _desk.answer(event)


async def stream(event: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The same in parts as they are done, the last without the text; `RUNPOD_STREAM=1` serves the queue by it."""
    async for part in _desk.stream(event):
        yield part
