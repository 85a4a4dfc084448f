"""Estimate how long a request takes, from the windows that are decoded so far. Knows no engine and no request."""

from dataclasses import dataclass

from handler.schema.window import SAMPLE_RATE, Window

# A request is estimated after this many seconds of work by the device and this many windows of the request.
MIN_DEVICE_S, MIN_WINDOWS = 5.0, 8
MARGIN = 1.25  # a request is hopeless if the device alone would take this many times the remaining time


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

    def remaining_s(self, total_s: float, device_s: float, decoded_s: float) -> float | None:
        """Return how many seconds the device would still need for audio of `total_s` seconds, if it did nothing else.

        So far, the device has worked for `device_s` seconds and decoded `decoded_s` seconds of audio, of all requests.
        Return None if that is too little to tell.
        """
        if self.num_windows < MIN_WINDOWS or device_s < MIN_DEVICE_S:
            return None
        return self._remaining_windows_s(total_s) * device_s / max(decoded_s, 1e-6)

    def _remaining_windows_s(self, total_s: float) -> float:
        """Estimate how many seconds of windows are still to come, assuming the share of silence stays the same."""
        read_s = self.decoded_until_s - self.start_s
        return (total_s - self.decoded_until_s) * min(1.0, self.windows_s / max(read_s, 1e-6))


def is_hopeless(remaining_s: float, left_s: float) -> bool:
    """Return whether a request that needs `remaining_s` seconds cannot be done in the `left_s` that are left."""
    return remaining_s > MARGIN * max(0.0, left_s)
