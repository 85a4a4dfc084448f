"""The queue's door: importing it loads the model into device memory; `handler(event)` transcribes. Knows nothing of decoding."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from handler import logs
from handler.errors import AsrError
from handler.job import answer, parse_job
from handler.pipeline import ProgressCallback
from handler.sdk import sdk
from handler.settings import Settings
from handler.start import build
from handler.timeline import Timeline

settings = Settings.from_env(os.environ)
logs.configure(settings.log_level)
timeline = Timeline.of_process()


def _import_sdk() -> None:
    with timeline.span("import_sdk"):
        sdk()


pipeline = build(settings, timeline, beside=_import_sdk)


async def handler(event: Mapping[str, Any], progress: ProgressCallback | None = None) -> dict[str, Any]:
    """The transcript of one job, or its error as text under `error`, beginning with the stable code."""
    try:
        source, options = parse_job(event)
        return await asyncio.to_thread(answer, await pipeline.transcribe(source, options, progress), options)
    except AsrError as exc:
        logs.info("job_refused", job=event.get("id"), **exc.as_dict())
        return {"error": str(exc)}
