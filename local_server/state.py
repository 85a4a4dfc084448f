"""The pipeline of this server, or why there is none. Knows no route."""

from handler import __version__
from handler.errors import ModelUnavailable
from handler.settings import Settings
from handler.transcription.pipeline import Pipeline


class ServerState:
    """The pipeline, while it is being built, once it is, or the reason why it is not."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pipeline: Pipeline | None = None
        self.fault: str | None = None

    def ready(self) -> Pipeline:
        """The pipeline. Raises ModelUnavailable while there is none, DeviceLost when it can do nothing any more."""
        if self.pipeline is None:
            raise ModelUnavailable(self.fault or "the model is being loaded; expected a request after /hc says ok")
        if self.pipeline.runner.fault is not None:
            raise self.pipeline.runner.fault
        return self.pipeline

    def health(self) -> tuple[int, dict[str, str] | None]:
        """The status of `/hc` and its body."""
        fault = self.fault or (self.pipeline and self.pipeline.runner.fault)
        if fault:
            return 503, {"status": "failed", "reason": str(fault)}
        if self.pipeline is not None:
            return 200, {"status": "ok", "version": __version__}
        return (204, None) if self.settings.port_health is not None else (503, {"status": "starting"})
