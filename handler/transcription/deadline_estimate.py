"""Know by when a request must be done, and estimate whether it can be. Knows no engine and no request."""

from dataclasses import dataclass

from handler.errors import TooLong
from handler.schema.window import SAMPLE_RATE, Window

# A request is estimated after this many seconds of work by the device and this many windows of the request.
MIN_DEVICE_S, MIN_WINDOWS = 5.0, 8
MARGIN = 1.25  # a request cannot be done if the device alone would take this many times the remaining time


@dataclass(slots=True)
class DeadlineEstimate:
    """What is known of the windows of a request whose audio is read from `start_s` seconds on."""

    start_s: float
    num_windows: int = 0
    windows_s: float = 0.0  # seconds of audio in these windows
    decoded_until_s: float = 0.0  # latest end of one of them, in seconds of the audio

    def add(self, window: Window) -> None:
        """Add a decoded window."""
        self.num_windows += 1
        self.windows_s += window.seconds
        self.decoded_until_s = max(self.decoded_until_s, window.end / SAMPLE_RATE)

    def remaining_s(self, total_s: float, device_s: float, decoded_s: float, num_channels: int = 1) -> float | None:
        """Return how many seconds the device would still need for audio of `total_s` seconds, if it did nothing else.

        Each of `num_channels` is transcribed on its own.
        So far, the device has worked for `device_s` seconds and decoded `decoded_s` seconds of audio, of all requests.
        Return None if that is too little to tell.
        """
        if self.num_windows < MIN_WINDOWS or device_s < MIN_DEVICE_S:
            return None
        return self._remaining_windows_s(total_s, num_channels) * device_s / max(decoded_s, 1e-6)

    def _remaining_windows_s(self, total_s: float, num_channels: int) -> float:
        """Estimate how many seconds of windows are still to come, assuming the share of silence stays the same."""
        read_s = self.decoded_until_s - self.start_s
        return (total_s - self.decoded_until_s) * min(num_channels, self.windows_s / max(read_s, 1e-6))


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The time that a request may take."""

    seconds: float
    is_of_caller: bool  # whether the caller needs the answer by then, rather than that this process allows no more

    @classmethod
    def of(cls, timeout_s: float, caller_s: float | None) -> "TimeLimit":
        """Return the shorter of REQUEST_TIMEOUT_S and the caller's limit, which may be None."""
        if caller_s is not None and caller_s < timeout_s:
            return cls(caller_s, is_of_caller=True)
        return cls(timeout_s, is_of_caller=False)

    @property
    def expectation(self) -> str:
        """The first part of the error message for a request that takes longer."""
        name = "the execution timeout" if self.is_of_caller else "REQUEST_TIMEOUT_S"
        return f"expected an answer within {self.seconds:g} s ({name})"

    def check(self, elapsed_s: float, remaining_s: float | None, total_s: float) -> None:
        """Raise TooLong if audio of `total_s` seconds cannot be done in time, even if the device did nothing else.

        The request has taken `elapsed_s` seconds, and the device would still need `remaining_s`, or nobody knows.
        """
        if remaining_s is not None and remaining_s > MARGIN * max(0.0, self.seconds - elapsed_s):
            estimate = f"{total_s:.0f} s of audio would take about {elapsed_s + remaining_s:.0f} s here"
            advice = "allow more (policy.executionTimeout), or ask for a part (partial, start_at)"
            raise TooLong(f"{self.expectation}; {estimate}: {advice}")
