"""Hold the state that all requests share: the pipeline, or the reason why there is none. Knows no route."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from handler import __version__
from handler.errors import ModelUnavailable
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline

if TYPE_CHECKING:  # importing what renders transcripts would slow down the start
    from local_server.background.background_jobs import BackgroundJobs
    from local_server.live.live_sessions import LiveSessions


class ServerState:
    """The state that all requests share.

    `pipeline` is None until it is built, `jobs` and `sessions` until there are routes. `fault` is the reason why there
    will be no pipeline, or None.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pipeline: Pipeline | None = None
        self.jobs: BackgroundJobs | None = None
        self.sessions: LiveSessions | None = None
        self.fault: str | None = None
        self.stops_at: float | None = None  # of time.monotonic; when running work is cut off, once the server stops

    def drain_s(self) -> float:
        """Return how many seconds of DRAIN_TIMEOUT_S a server that stops has left."""
        if self.stops_at is None:
            return self.settings.drain_timeout_s
        return max(0.0, self.stops_at - time.monotonic())

    def require_pipeline(self) -> Pipeline:
        """Return the pipeline. Raises ModelUnavailable if it is not built, or the error that keeps it from working."""
        if self.pipeline is None:
            raise ModelUnavailable(self.fault or "the model is being loaded; expected a request after /hc says ok")
        if (fault := self.pipeline.fault) is not None:
            raise fault
        return self.pipeline

    def health(self) -> tuple[int, dict[str, str] | None]:
        """Return the status of `/hc` and its JSON body, which is None if the response has no body."""
        fault = self.fault or (self.pipeline and self.pipeline.fault)
        if fault:
            return 503, {"status": "failed", "reason": str(fault)}
        if self.pipeline is not None:
            return 200, {"status": "ok", "version": __version__}
        return (204, None) if self.settings.port_health is not None else (503, {"status": "starting"})
