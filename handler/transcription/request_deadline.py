"""Watch whether a request can be done in time. Knows no text."""

from handler.schema.options import Options
from handler.schema.window import Window
from handler.timeline import Timeline
from handler.transcription.deadline_estimate import DeadlineEstimate, TimeLimit
from handler.transcription.ingest import WindowProducer
from handler.transcription.shared_resources import SharedResources


class RequestDeadline:
    """The time limit of one request, and how far the request has got."""

    def __init__(
        self, resources: SharedResources, options: Options, timeline: Timeline, caller_limit_s: float | None
    ) -> None:
        """Create the shorter of REQUEST_TIMEOUT_S and `caller_limit_s`, which may be None."""
        self.limit = TimeLimit.of(resources.settings.request_timeout_s, caller_limit_s)
        self._estimate = DeadlineEstimate(options.start_at)
        self._resources = resources
        self._timeline = timeline
        self._is_partial_welcome = options.partial

    @property
    def left_s(self) -> float:
        """How many seconds are left."""
        return max(0.0, self.limit.seconds - self._timeline.total())

    @property
    def num_windows(self) -> int:
        """How many windows are decoded."""
        return self._estimate.num_windows

    @property
    def decoded_until_s(self) -> float:
        """Until which second of the audio windows are decoded, of which some before may be missing."""
        return self._estimate.decoded_until_s

    def count(self, window: Window, audio: WindowProducer) -> None:
        """Count a decoded window. Raises TooLong if the device could not meet the caller's limit even by itself."""
        self._estimate.add(window)
        total_s = audio.duration
        if total_s is None or self._is_partial_welcome or not self.limit.is_of_caller:
            return
        device_s, decoded_s = self._resources.runner.device_s, self._resources.decoded_s
        remaining_s = self._estimate.remaining_s(total_s, device_s, decoded_s, len(audio.channels))
        self.limit.check(self._timeline.total(), remaining_s, total_s)
